// The problem responses: which ones there are, and what each of them says.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace idempotency {

enum class Problem : std::uint8_t {
    key_missing,
    scope_missing,
    key_invalid,
    key_reused,
    in_progress,
    outcome_unknown,
    response_not_kept,
    quota_exceeded,
    store_unavailable,
    response_incomplete,  // the 502: its status and its code can't be changed
};

constexpr std::size_t kProblems = static_cast<std::size_t>(Problem::response_incomplete) + 1;

// All texts are string literals, and need no escapes in JSON.
struct ProblemText {
    unsigned status;
    const char *code;
    const char *title;
    const char *detail;
};

const ProblemText &default_problem_text(Problem problem);

// The gRPC status of this problem response, for a gRPC request.
int grpc_status_of(Problem problem);

// Finds the problem response with this code, apart from the 502.  False: there is none.
bool find_problem(std::string_view code, Problem &problem);

// "409 Conflict".  Null if the status is not registered for HTTP, or is not from 400 to 599.
const char *error_status_line(unsigned status);

}  // namespace idempotency
