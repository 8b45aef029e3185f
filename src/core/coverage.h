// Whether a request is covered: the first decision, and a pure one.

#pragma once

#include <string_view>

#include "core/key.h"

namespace idempotency {

enum class Coverage {
    uncovered,  // no concern of this module
    bypassed,
    unscoped,  // passes, unprotected
    covered,
    key_missing,    // refused
    key_invalid,    // refused
    scope_missing,  // refused
};

struct CoverageQuestion {
    bool method_covered = false;
    bool bypass = false;
    bool required = false;
    unsigned key_fields = 0;  // how many there are
    bool scope_needed = false;
    bool scope_empty = false;
    KeyFault key_fault = KeyFault::none;
};

// The order is the contract's: what is not covered is never refused for the
// form of its key, unless `required` says that it has to be covered.
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
