// Beats as bytes: to and from the ports of a circuit that Verilator compiled, and from files.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "verilated.h"

using Bytes = std::vector<uint8_t>;

// Ports are integers of up to 64 bits, or arrays of words of 32.
template <typename Port> void put(Port& port, const uint8_t* bytes, size_t count) {
    uint64_t value = 0;
    for (size_t n = 0; n < count; ++n) value |= uint64_t(bytes[n]) << 8 * n;
    port = static_cast<Port>(value);
}
template <std::size_t Words> void put(VlWide<Words>& port, const uint8_t* bytes, size_t count) {
    for (size_t word = 0; word < Words; ++word) port[word] = 0;
    for (size_t n = 0; n < count; ++n) port[n / 4] |= uint32_t(bytes[n]) << 8 * (n % 4);
}
template <typename Port> void get(const Port& port, uint8_t* bytes, size_t count) {
    for (size_t n = 0; n < count; ++n) bytes[n] = uint8_t(uint64_t(port) >> 8 * n);
}
template <std::size_t Words> void get(const VlWide<Words>& port, uint8_t* bytes, size_t count) {
    for (size_t n = 0; n < count; ++n) bytes[n] = uint8_t(port[n / 4] >> 8 * (n % 4));
}

inline Bytes read(const char* name) {
    Bytes bytes;
    FILE* file = std::fopen(name, "rb");
    if (!file) { std::fprintf(stderr, "Error: cannot read %s\n", name); std::exit(1); }
    uint8_t buffer[1 << 16];
    for (size_t got; (got = std::fread(buffer, 1, sizeof buffer, file)) > 0;)
        bytes.insert(bytes.end(), buffer, buffer + got);
    std::fclose(file);
    return bytes;
}
