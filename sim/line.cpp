// A circuit with a serial line, played from standard input to standard output.
//
// Input is pairs of bytes, a value and what to do with it; output is the bytes that the circuit
// sends. Once nothing has happened for a while the clock stands still until there is more input.
#include <poll.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>

#include "Vnetwork.h"
#include "verilated.h"

namespace {

enum Kind : uint8_t {
    kByte = 0,    // the byte
    kBroken = 1,  // the byte with a low stop bit
    kIdle = 2,    // the line is high for so many bits
    kReset = 3,   // reset for so many cycles
    kLow = 4,     // the line is low for so many cycles
};

struct Item { uint8_t value, kind; };

class Input {
public:
    // Takes what is there; waits for it if `wait`. False at the end of the input.
    bool fetch(bool wait) {
        pollfd ready{STDIN_FILENO, POLLIN, 0};
        if (!open_ || poll(&ready, 1, wait ? -1 : 0) <= 0) return open_;
        uint8_t buffer[4096];
        const ssize_t got = read(STDIN_FILENO, buffer, sizeof buffer);
        if (got <= 0) return open_ = false;
        for (ssize_t n = 0; n < got; ++n) {
            if (!half_) { value_ = buffer[n]; half_ = true; continue; }
            items.push_back({value_, buffer[n]});
            half_ = false;
        }
        return true;
    }
    std::deque<Item> items;

private:
    bool open_ = true, half_ = false;
    uint8_t value_ = 0;
};

}  // namespace

// Arguments: cycles of a bit, cycles without an event after which the clock stops.
int main(int argc, char** argv) {
    if (argc != 3) { std::fprintf(stderr, "Error: wrong arguments\n"); return 1; }
    const uint32_t divisor = uint32_t(std::stoul(argv[1]));
    const uint64_t patience = std::stoull(argv[2]);
    const auto context = std::make_unique<VerilatedContext>();
    const auto top = std::make_unique<Vnetwork>(context.get());
    auto clock = [&] { top->clk = 1; top->eval(); top->clk = 0; top->eval(); };

    top->clk = 0, top->rst = 1, top->rx = 1;
    for (int n = 0; n < 3; ++n) clock();
    top->rst = 0;

    Input input;
    uint64_t cycle = 0, last = 0;
    uint64_t hold = 0;    // cycles for which the pins stay as they are
    uint32_t frame = 0;   // bits that follow, the next one lowest
    int bits = 0;
    uint32_t taken = 0;   // bits off the circuit's line, the stop bit highest
    int taking = 0;
    uint64_t sample = 0;
    for (;;) {
        if (hold == 0) {
            top->rst = 0;
            if (bits > 0) {
                top->rx = frame & 1, frame >>= 1, --bits, hold = divisor;
            } else {
                top->rx = 1;
                if (input.items.empty() && cycle % 256 == 0) {
                    const bool open = input.fetch(false);
                    if (input.items.empty() && cycle - last > patience) {
                        std::fflush(stdout);
                        if (!open || !input.fetch(true)) break;
                        last = cycle;
                    }
                }
                if (!input.items.empty()) {
                    const Item item = input.items.front();
                    input.items.pop_front();
                    last = cycle;
                    switch (item.kind) {
                    case kByte: frame = 0x200u | uint32_t(item.value) << 1, bits = 10; break;
                    case kBroken: frame = uint32_t(item.value) << 1, bits = 10; break;
                    case kIdle: hold = uint64_t(item.value) * divisor; break;
                    case kReset: top->rst = 1, hold = item.value; break;
                    case kLow: top->rx = 0, hold = item.value; break;
                    default: std::fprintf(stderr, "Error: unknown kind %d\n", item.kind); return 1;
                    }
                    if (bits > 0) continue;
                }
            }
        }
        if (hold > 0) --hold;
        clock();
        ++cycle;
        if (taking == 0) {
            if (!top->tx) taking = 10, sample = cycle + divisor / 2, taken = 0;
        } else if (cycle == sample) {
            taken |= uint32_t(top->tx) << (10 - taking);
            sample += divisor;
            if (--taking == 0) {
                const int stop = taken >> 9 & 1;
                std::putchar(int(taken >> 1 & 0xff));
                if (!stop) { std::fprintf(stderr, "Error: low stop bit\n"); return 1; }
                last = cycle;
                if (input.items.empty()) std::fflush(stdout);
            }
        }
    }
    top->final();
    return 0;
}
