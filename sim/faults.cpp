// Plays images into a network again and again, each time with one bit flipped; see faults.py.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>

#include "Vnetwork.h"
#include "ports.h"
#include "verilated_vpi.h"

namespace {

// A bit of a register, or of a word of a memory.
class Bit {
public:
    Bit(const std::string& name, int word, int bit) : m_bit(bit) {
        m_handle = vpi_handle_by_name(const_cast<char*>(name.c_str()), nullptr);
        if (m_handle && word >= 0) m_handle = vpi_handle_by_index(m_handle, word);
        if (!m_handle || vpi_get(vpiSize, m_handle) <= bit)
            throw std::runtime_error("no bit " + std::to_string(bit) + " of " + name);
    }
    void flip() const {
        s_vpi_value value{vpiBinStrVal, {}};
        vpi_get_value(m_handle, &value);
        std::string digits(value.value.str);
        char& digit = digits[digits.size() - 1 - m_bit];
        digit = digit == '0' ? '1' : '0';
        value.value.str = const_cast<char*>(digits.c_str());
        s_vpi_time now{vpiSimTime, 0, 0, 0};
        vpi_put_value(m_handle, &value, &now, vpiNoDelay);
    }

private:
    vpiHandle m_handle;
    int m_bit;
};

}  // namespace

// Arguments: images, upsets, file of results; bytes of a beat in, beats of an image, bytes of a
// beat out, beats of a result, bytes of a beat of scores, beats of an image's scores; most cycles.
//
// Upsets: lines of the cycle, the image that comes first, whether it lasts, a word or -1, a bit,
// and a name; a name of - flips nothing. For each, the results and then the scores of all images
// go to the file, 0 where none came, and a line to standard output: beats of results, cycles from
// reset to the first and to the last result, and if tlast was wrong, frame_error, parity_error.
int main(int argc, char** argv) try {
    if (argc != 11) throw std::runtime_error("wrong arguments");
    const Bytes images = read(argv[1]);
    auto number = [&](int place) { return std::stoull(argv[place]); };
    const size_t i_bytes = number(4), i_beats = number(5), o_bytes = number(6), o_beats = number(7);
    const size_t s_bytes = number(8), s_beats = number(9);
    const uint64_t limit = number(10);
    const size_t image_bytes = i_bytes * i_beats, count = images.size() / image_bytes;
    std::ifstream upsets(argv[2]);
    std::ofstream output(argv[3], std::ios::binary);

    const auto context = std::make_unique<VerilatedContext>();
    const auto top = std::make_unique<Vnetwork>(context.get());
    auto clock = [&] { top->clk = 1; top->eval(); top->clk = 0; top->eval(); };
    top->clk = 0;
    top->eval();

    for (std::string line; std::getline(upsets, line);) {
        std::istringstream fields(line);
        uint64_t when = 0;
        size_t first = 0;
        bool lasts = false;
        int word = 0, place = 0;
        std::string name;
        fields >> when >> first >> lasts >> word >> place >> std::ws;
        std::getline(fields, name);
        std::unique_ptr<Bit> bit;
        if (name != "-") bit = std::make_unique<Bit>(name, word, place);

        top->rst = 1, top->s_axis_tvalid = 0, top->m_axis_tready = 1;
        for (int n = 0; n < 3; ++n) clock();
        top->rst = 0;
        Bytes results(count * o_beats * o_bytes), scores(count * s_beats * s_bytes);
        const size_t send = count * i_beats, take = count * o_beats, expect = count * s_beats;
        size_t sent = 0, taken = 0, seen = 0;
        uint64_t cycle = 0, first_result = 0;
        bool wrong_last = false;
        for (; taken < take && cycle < limit; ++cycle) {
            if (bit && cycle == when) bit->flip();
            top->s_axis_tvalid = sent < send;
            if (sent < send) {
                const size_t image = (sent / i_beats + first) % count;
                put(top->s_axis_tdata, &images[image * image_bytes + sent % i_beats * i_bytes],
                    i_bytes);
                top->s_axis_tlast = (sent + 1) % i_beats == 0;
            }
            top->eval();
            if (top->s_axis_tvalid && top->s_axis_tready) ++sent;
            if (top->scores_taken && seen < expect)
                get(top->scores, &scores[seen++ * s_bytes], s_bytes);
            if (top->m_axis_tvalid) {
                get(top->m_axis_tdata, &results[taken++ * o_bytes], o_bytes);
                wrong_last |= bool(top->m_axis_tlast) != (taken % o_beats == 0);
                if (taken == o_beats) first_result = cycle;
            }
            clock();
        }
        if (bit && lasts) bit->flip();
        output.write(reinterpret_cast<const char*>(results.data()), results.size());
        output.write(reinterpret_cast<const char*>(scores.data()), scores.size());
        std::printf("%zu %llu %llu %d %d %d\n", taken, (unsigned long long)first_result,
                    (unsigned long long)cycle, wrong_last, bool(top->frame_error),
                    bool(top->parity_error));
        std::fflush(stdout);
    }
    top->final();
    return 0;
} catch (const std::exception& error) {
    std::fprintf(stderr, "Error: %s\n", error.what());
    return 1;
}
