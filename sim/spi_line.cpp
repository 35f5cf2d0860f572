// A circuit with SPI, played by a controller from standard input to standard output.
//
// Input is pairs of bytes, a value and what to do with it; output is the byte that the controller
// reads for each one that it sends. SCK has its shortest periods and, at random, slightly longer
// ones, as one of another clock has. While there is no input the clock stands still.
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>

#include "Vnetwork.h"
#include "verilated.h"

namespace {

enum Kind : uint8_t {
    kByte = 0,      // the byte, in a transaction that begins with it unless there is one
    kLost = 1,      // the byte without the clock's pulse for one bit
    kExtra = 2,     // the byte with two pulses for one bit
    kCut = 3,       // half of the byte, and the end of the transaction
    kDeselect = 4,  // the end of the transaction, and a pause of so many cycles
    kReset = 5,     // reset for so many cycles
    kSpike = 6,     // the clock's line high for so many cycles
    kIdle = 7,      // nothing for so many cycles
};

// The next byte of the input; -1 at its end.
int next_byte() {
    static uint8_t buffer[4096];
    static ssize_t got = 0, at = 0;
    if (at == got) {
        std::fflush(stdout);
        got = read(STDIN_FILENO, buffer, sizeof buffer), at = 0;
        if (got <= 0) return -1;
    }
    return buffer[at++];
}

class Controller {
public:
    explicit Controller(unsigned period) : low_((period + 1) / 2), high_(period / 2) {
        top_->clk = 0, top_->rst = 1, top_->sck = 0, top_->cs_n = 1, top_->copi = 0;
        wait(3);
        top_->rst = 0;
        wait(3);
    }

    void play(uint8_t value, uint8_t kind) {
        switch (kind) {
        case kByte: case kLost: case kExtra: case kCut: exchange(value, Kind(kind)); return;
        case kDeselect: deselect(); wait(value); return;
        case kReset: top_->rst = 1; wait(value); top_->rst = 0; return;
        case kSpike: wait(2); top_->sck = 1; wait(value); top_->sck = 0; wait(2); return;
        case kIdle: wait(value); return;
        default: fail("unknown kind " + std::to_string(kind));
        }
    }

    [[noreturn]] static void fail(const std::string& what) {
        std::fprintf(stderr, "Error: %s\n", what.c_str());
        std::exit(1);
    }

private:
    void wait(unsigned cycles) {
        for (; cycles > 0; --cycles) {
            before_ = top_->cipo;
            top_->clk = 1, top_->eval(), top_->clk = 0, top_->eval();
            if (bool(top_->cipo_oe) == bool(top_->cs_n)) fail("CIPO must be driven while selected");
        }
    }

    void exchange(uint8_t value, Kind kind) {
        if (top_->cs_n) top_->cs_n = 0, top_->copi = value >> 7, wait(low_);
        unsigned read = 0;
        const int end = kind == kCut ? 4 : 0;
        for (int bit = 7; bit >= end; --bit) {
            top_->copi = value >> bit & 1;
            wait(low_ + (random_() & 1));
            // SCK may have risen up to a cycle before the circuit's clock sees it.
            read = read << 1 | before_;
            const int pulses = bit != 4 ? 1 : kind == kLost ? 0 : kind == kExtra ? 2 : 1;
            for (int n = 0; n < pulses; ++n) {
                if (n > 0) wait(low_);
                top_->sck = 1, wait(high_ + (random_() & 1)), top_->sck = 0;
            }
        }
        std::putchar(int(read & 0xff));
        if (kind == kCut) deselect();
    }

    void deselect() {
        wait(low_);
        top_->cs_n = 1, top_->copi = 0;
        wait(low_);
    }

    const std::unique_ptr<VerilatedContext> context_ = std::make_unique<VerilatedContext>();
    const std::unique_ptr<Vnetwork> top_ = std::make_unique<Vnetwork>(context_.get());
    const unsigned low_, high_;
    unsigned before_ = 0;
    std::minstd_rand random_{1};
};

}  // namespace

// Argument: cycles of a period of SCK.
int main(int argc, char** argv) {
    if (argc != 2) Controller::fail("wrong arguments");
    Controller controller(unsigned(std::stoul(argv[1])));
    for (;;) {
        const int value = next_byte(), kind = value < 0 ? -1 : next_byte();
        if (kind < 0) break;
        controller.play(uint8_t(value), uint8_t(kind));
    }
    return 0;
}
