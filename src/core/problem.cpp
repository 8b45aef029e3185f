#include "core/problem.h"

#include "core/grpc.h"

namespace idempotency {

namespace {

// The errors in IANA's registry of HTTP status codes.
constexpr const char *kStatusLines[] = {
    "400 Bad Request",
    "401 Unauthorized",
    "402 Payment Required",
    "403 Forbidden",
    "404 Not Found",
    "405 Method Not Allowed",
    "406 Not Acceptable",
    "407 Proxy Authentication Required",
    "408 Request Timeout",
    "409 Conflict",
    "410 Gone",
    "411 Length Required",
    "412 Precondition Failed",
    "413 Content Too Large",
    "414 URI Too Long",
    "415 Unsupported Media Type",
    "416 Range Not Satisfiable",
    "417 Expectation Failed",
    "421 Misdirected Request",
    "422 Unprocessable Content",
    "423 Locked",
    "424 Failed Dependency",
    "425 Too Early",
    "426 Upgrade Required",
    "428 Precondition Required",
    "429 Too Many Requests",
    "431 Request Header Fields Too Large",
    "451 Unavailable For Legal Reasons",
    "500 Internal Server Error",
    "501 Not Implemented",
    "502 Bad Gateway",
    "503 Service Unavailable",
    "504 Gateway Timeout",
    "505 HTTP Version Not Supported",
    "506 Variant Also Negotiates",
    "507 Insufficient Storage",
    "508 Loop Detected",
    "511 Network Authentication Required",
};

}  // namespace

int grpc_status_of(Problem problem)
{
    const char *name = "UNKNOWN";

    switch (problem) {
    case Problem::key_missing:
    case Problem::scope_missing:
    case Problem::key_invalid:
        name = "INVALID_ARGUMENT";
        break;
    case Problem::key_reused:
    case Problem::outcome_unknown:
    case Problem::response_not_kept:
        name = "FAILED_PRECONDITION";
        break;
    case Problem::in_progress:
        name = "ABORTED";
        break;
    case Problem::quota_exceeded:
        name = "RESOURCE_EXHAUSTED";
        break;
    case Problem::store_unavailable:
        name = "UNAVAILABLE";
        break;
    case Problem::response_incomplete:
        break;
    }

    return grpc_status_of_name(name);
}

const ProblemText &default_problem_text(Problem problem)
{
    static constexpr ProblemText texts[kProblems] = {
        {400, "idempotency_key_missing", "Idempotency-Key header is missing",
         "This request needs an Idempotency-Key header. Choose a new unique value for each "
         "operation, and send the same value again when you retry the operation."},
        {400, "idempotency_scope_missing", "Client is not identified",
         "This request has an idempotency key, but no credentials (such as an Authorization "
         "header) that identify the client. Send the request with credentials."},
        {400, "idempotency_key_invalid", "Idempotency key is invalid",
         "Send exactly one Idempotency-Key header. Its value must have 1 to 255 visible ASCII "
         "characters, or be a quoted string (RFC 9651)."},
        {422, "idempotency_key_reused", "Idempotency key was used for another request",
         "Another request was sent with this idempotency key before. To retry that request, send "
         "it unchanged. For a new request, use a new key."},
        {409, "request_in_progress", "First request is still in progress",
         "Another request with this idempotency key is still being processed. Retry later with "
         "the same key to get its response."},
        {409, "outcome_unknown", "Outcome of the first request is unknown",
         "A request with this idempotency key was sent to the application, but no complete "
         "response was received. The operation may or may not have been performed. Check its "
         "state before you continue."},
        {409, "response_not_kept", "Response of the first request was not kept",
         "A request with this idempotency key was processed, but its response was not kept and "
         "can't be sent again. Do not repeat the operation with a new key."},
        {429, "idempotency_quota_exceeded", "Too many new idempotency keys",
         "The request was not processed, because too many requests with new idempotency keys were "
         "sent. Retry later with the same key."},
        {503, "store_unavailable", "Idempotency store is unavailable",
         "The request was not processed, because a duplicate could not be excluded. Retry later "
         "with the same key."},
        {502, "outcome_unknown", "Response of the application is incomplete",
         "The response of the application ended early. The operation may or may not have been "
         "performed. Retry with the same key to learn its state."},
    };

    return texts[static_cast<std::size_t>(problem)];
}

bool find_problem(std::string_view code, Problem &problem)
{
    for (std::size_t i = 0; i < kProblems; i++) {
        problem = static_cast<Problem>(i);

        if (problem != Problem::response_incomplete && code == default_problem_text(problem).code) {
            return true;
        }
    }

    return false;
}

const char *error_status_line(unsigned status)
{
    for (const char *line : kStatusLines) {
        unsigned number = static_cast<unsigned>(line[0] - '0') * 100
                          + static_cast<unsigned>(line[1] - '0') * 10
                          + static_cast<unsigned>(line[2] - '0');

        if (number == status) {
            return line;
        }
    }

    return nullptr;
}

}  // namespace idempotency
