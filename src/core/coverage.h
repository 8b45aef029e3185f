// The first decision about a request, as a pure function: whether it is covered.

#pragma once

#include <string_view>

#include "core/key.h"

namespace idempotency {

enum class Coverage {
    uncovered,  // the module leaves the request alone
    bypassed,   // by idempotency_bypass
    unscoped,   // the scope is empty: the request goes to the upstream without protection
    covered,
    key_missing,  // a problem response, as the next two
    key_invalid,
    scope_missing,
};

struct CoverageQuestion {
    bool method_covered = false;
    bool bypass = false;
    bool required = false;
    unsigned key_fields = 0;  // number of key header fields in the request
    bool scope_needed = false;
    bool scope_empty = false;
    KeyFault key_fault = KeyFault::none;
};

// The order of the checks is part of the contract: a request that is not
// covered never gets a problem response for the syntax of its key, unless `required` is set.
inline Coverage decide_coverage(const CoverageQuestion &q)
{
    if (!q.method_covered || (q.key_fields == 0 && !q.required)) {
        return Coverage::uncovered;
    }

    if (q.bypass) {
        return Coverage::bypassed;
    }

    if (q.key_fields == 0) {
        return Coverage::key_missing;
    }

    if (q.scope_needed && q.scope_empty) {
        return q.required ? Coverage::scope_missing : Coverage::unscoped;
    }

    if (q.key_fields > 1 || q.key_fault != KeyFault::none) {
        return Coverage::key_invalid;
    }

    return Coverage::covered;
}

}  // namespace idempotency
