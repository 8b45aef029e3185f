// SipHash-2-4 (Aumasson, Bernstein): a hash with a secret key, for tables whose keys a client can
// choose.  Without the secret nobody can find keys that meet in one place of the table.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace idempotency {

// Chosen at random; lies in shared memory.
struct SipKey {
    std::uint64_t k0;
    std::uint64_t k1;
};

// False: OpenSSL has no random numbers.
bool make_sip_key(SipKey &key);

std::uint64_t siphash(const SipKey &key, std::string_view bytes);

}  // namespace idempotency
