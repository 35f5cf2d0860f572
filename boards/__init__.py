"""Chips and boards: synthesis, place and route, bitstreams."""
