// The first decision about a request, as a pure function: whether it is covered.

#pragma once

#include <string_view>

#include "core/digest.h"
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

// Whether the request gets a problem response.
inline bool is_refused(Coverage coverage)
{
    return coverage == Coverage::key_missing || coverage == Coverage::key_invalid
           || coverage == Coverage::scope_missing;
}

// Every part of a scope must have a value; with `any`, one part with a value is enough.
inline bool is_scope_empty(const Scope &scope, bool any)
{
    std::size_t with_value = 0;

    for (std::size_t i = 0; i < scope.count; i++) {
        with_value += scope.parts[i].empty() ? 0 : 1;
    }

    return any ? with_value == 0 : with_value < scope.count;
}

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
