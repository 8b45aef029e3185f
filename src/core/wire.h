// Big-endian integers in byte strings.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace idempotency::wire {

inline std::string_view view(const unsigned char *data, std::size_t size)
{
    return {reinterpret_cast<const char *>(data), size};
}

inline const unsigned char *octets(std::string_view bytes)
{
    return reinterpret_cast<const unsigned char *>(bytes.data());
}

template <typename Integer>
inline void put(unsigned char *out, Integer value)
{
    for (std::size_t i = sizeof(Integer); i-- > 0;) {
        out[i] = static_cast<unsigned char>(value);
        value = static_cast<Integer>(sizeof(Integer) > 1 ? value >> 8 : 0);
    }
}

template <typename Integer>
inline Integer get(const unsigned char *in)
{
    Integer value = 0;

    for (std::size_t i = 0; i < sizeof(Integer); i++) {
        value = static_cast<Integer>((sizeof(Integer) > 1 ? value << 8 : 0) | in[i]);
    }

    return value;
}

inline void put_u16(unsigned char *out, std::uint16_t v) { put(out, v); }
inline void put_u32(unsigned char *out, std::uint32_t v) { put(out, v); }
inline void put_u64(unsigned char *out, std::uint64_t v) { put(out, v); }

inline std::uint16_t get_u16(const unsigned char *in) { return get<std::uint16_t>(in); }
inline std::uint32_t get_u32(const unsigned char *in) { return get<std::uint32_t>(in); }
inline std::uint64_t get_u64(const unsigned char *in) { return get<std::uint64_t>(in); }

}  // namespace idempotency::wire
