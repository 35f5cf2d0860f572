// Plays images into a network's AXI4-Stream ports and keeps its results: all in C++, so that a
// cycle costs what the circuit costs.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <string>

#include "Vnetwork.h"
#include "ports.h"

// Arguments: input and output file, bytes of a beat in, beats of an image, bytes of a beat out,
// beats of a result, stall of 65536, seed, most cycles without a beat, file of weights. The weights
// are sent first where the circuit has a port for them (WEIGHTS); images are offered meanwhile.
int main(int argc, char** argv) {
    if (argc != 11) { std::fprintf(stderr, "Error: wrong arguments\n"); return 1; }
    const Bytes images = read(argv[1]);
    const size_t i_bytes = std::stoul(argv[3]), i_beats = std::stoul(argv[4]);
    const size_t o_bytes = std::stoul(argv[5]), o_beats = std::stoul(argv[6]);
    const uint32_t stall = uint32_t(std::stoul(argv[7]));
    std::mt19937 random(uint32_t(std::stoul(argv[8])));
    const uint64_t patience = std::stoull(argv[9]);
    const size_t count = images.size() / (i_bytes * i_beats);

    // Whatever the Verilog gives no initial value starts with a random one.
    const auto context = std::make_unique<VerilatedContext>();
    context->randReset(2);
    context->randSeed(std::stoi(argv[8]));
    const auto top = std::make_unique<Vnetwork>(context.get());
    FILE* output = std::fopen(argv[2], "wb");
    if (!output) { std::fprintf(stderr, "Error: cannot write %s\n", argv[2]); return 1; }

    auto clock = [&] { top->clk = 1; top->eval(); top->clk = 0; top->eval(); };
    top->clk = 0, top->rst = 1, top->s_axis_tvalid = 0, top->m_axis_tready = 0;
    for (int n = 0; n < 3; ++n) clock();
    top->rst = 0;

#ifdef WEIGHTS
    const Bytes weights = read(argv[10]);
    size_t loaded = 0;
    bool offered_weights = false;
    top->s_axis_weights_tvalid = 0;
#endif
    Bytes beat(o_bytes);
    size_t sent = 0, taken = 0;  // beats
    const size_t send = count * i_beats, take = count * o_beats;
    uint64_t cycle = 0, last = 0;
    bool offered = false;
    while (taken < take) {
        // A beat that was offered stays until it is taken.
        if (!offered && sent < send) offered = (random() & 0xffff) >= stall;
        top->s_axis_tvalid = offered;
        if (offered) {
            put(top->s_axis_tdata, &images[sent * i_bytes], i_bytes);
            top->s_axis_tlast = (sent + 1) % i_beats == 0;
        }
        top->m_axis_tready = (random() & 0xffff) >= stall;
#ifdef WEIGHTS
        if (!offered_weights && loaded < weights.size())
            offered_weights = (random() & 0xffff) >= stall;
        top->s_axis_weights_tvalid = offered_weights;
        if (offered_weights) {
            top->s_axis_weights_tdata = weights[loaded];
            top->s_axis_weights_tlast = loaded + 1 == weights.size();
        }
        if (top->weights_failed) {
            std::fprintf(stderr, "Error: the weights are refused\n");
            return 1;
        }
#endif
        top->eval();
#ifdef WEIGHTS
        if (offered_weights && top->s_axis_weights_tready) {
            ++loaded, offered_weights = false, last = cycle;
        }
#endif
        if (offered && top->s_axis_tready) { ++sent, offered = false, last = cycle; }
        if (top->m_axis_tvalid && top->m_axis_tready) {
            get(top->m_axis_tdata, beat.data(), o_bytes);
            std::fwrite(beat.data(), 1, o_bytes, output);
            const bool ends = ++taken % o_beats == 0;
            if (bool(top->m_axis_tlast) != ends) {
                std::fprintf(stderr, "Error: tlast is wrong at result beat %zu\n", taken);
                return 1;
            }
            last = cycle;
            if (ends) { std::printf("%zu\n", taken / o_beats); std::fflush(stdout); }
        }
        clock();
        if (++cycle - last > patience) {
            std::fprintf(stderr, "Error: hangs after %zu of %zu images\n", taken / o_beats, count);
            return 1;
        }
    }
    if (top->frame_error) { std::fprintf(stderr, "Error: frame_error is set\n"); return 1; }
    std::printf("cycles %llu\n", static_cast<unsigned long long>(cycle));
    std::fclose(output);
    top->final();
    return 0;
}
