// Why a call to a store failed: the label `cause` of the metrics.

#pragma once

#include <cstddef>
#include <string_view>

namespace idempotency {

enum class Cause : unsigned char {
    none,

    // the store does not reply
    timeout,
    connection,  // refused, closed, or known to be down

    // an error of Redis, by its code
    oom,
    readonly,
    noperm,
    noauth,  // WRONGPASS too
    noscript,
    moved,  // ASK, CLUSTERDOWN, CROSSSLOT and TRYAGAIN too
    loading,
    misconf,
    replicas,  // too few of them have the change
    error,     // any other

    full,           // no memory in an embedded store
    refused_value,  // Redis never takes a value of this size
    corrupt,        // the value of a key can't be read or decrypted
    no_memory,      // in this nginx
};

constexpr std::size_t kCauses = static_cast<std::size_t>(Cause::no_memory) + 1;

// As the metrics write it.
const char *cause_name(Cause cause);

// The cause that the code of an error of Redis names.
Cause cause_of_code(std::string_view code);

// Whether the store was not reached at all: it is over when there is a connection again.
bool is_connection_fault(Cause cause);

// Whether the store refuses other calls too, and not this value alone.
bool is_outage(Cause cause);

}  // namespace idempotency
