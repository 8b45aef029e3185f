// What the fuzz targets share.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

// An invariant.  Unlike assert() it is there in every kind of build.
#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);    \
            std::abort();                                                                          \
        }                                                                                          \
    } while (0)

namespace fuzz {

inline std::string_view view(const std::uint8_t *data, std::size_t size)
{
    return {reinterpret_cast<const char *>(data), size};
}

inline bool lies_within(std::string_view inner, std::string_view outer)
{
    return inner.empty()
           || (inner.data() >= outer.data()
               && inner.data() + inner.size() <= outer.data() + outer.size());
}

// Takes the bytes of an input as decisions; after the last one all are 0.
class Steering {
public:
    explicit Steering(std::string_view input) : rest_(input) {}

    bool done() const { return rest_.empty(); }

    std::uint64_t number(std::size_t bytes)
    {
        std::uint64_t n = 0;

        while (bytes-- > 0) {
            n = n << 8 | static_cast<unsigned char>(rest_.empty() ? '\0' : rest_.front());
            rest_.remove_prefix(rest_.empty() ? 0 : 1);
        }

        return n;
    }

    std::string_view text(std::size_t longest)
    {
        std::string_view taken = rest_.substr(0, longest);

        rest_.remove_prefix(taken.size());
        return taken;
    }

private:
    std::string_view rest_;
};

}  // namespace fuzz
