#include "http/observe/report.h"

#include "http/answer/problem.h"
#include "nginx/log_limit.h"

namespace idempotency {

namespace {

static_assert(static_cast<unsigned>(Status::quota) - static_cast<unsigned>(Status::fresh)
              == static_cast<unsigned>(Count::observed_quota)
                     - static_cast<unsigned>(Count::observed_fresh));

// "key ID in store", for a log line; empty without a key.
std::string_view format_key(const LocationConfig &conf, const KeyId *id,
                            char (&out)[kHexLength + 8])
{
    if (id == nullptr) {
        return {};
    }

    ngx_memcpy(out, "key ", 4);
    write_hex(conf.store->store->stored_id(*id), out + 4);
    ngx_memcpy(out + 4 + kHexLength, " in ", 4);
    return {out, sizeof(out)};
}

}  // namespace

void observe_status(const LocationConfig &conf, Status status)
{
    conf.store->counters->add(static_cast<Count>(static_cast<unsigned>(Count::observed_fresh)
                                                 + static_cast<unsigned>(status)
                                                 - static_cast<unsigned>(Status::fresh)));
}

const char *observe_refusal(const LocationConfig &conf, Status status, const KeyId *id,
                            ngx_log_t *log)
{
    static LogLimit limits[kProblems];
    Problem problem = problem_of(status);
    LogLimit::Line line = limits[static_cast<std::size_t>(problem)].next(NGX_LOG_NOTICE);
    ProblemText text = problem_text(conf, problem);
    char key[kHexLength + 8];

    bool waits =
        problem == Problem::in_progress && static_cast<Conflict>(conf.conflict) == Conflict::wait;
    bool passes = problem == Problem::store_unavailable
                  && static_cast<StoreError>(conf.store_error) == StoreError::pass;
    std::string_view where = format_key(conf, id, key);

    ngx_log_error(line.level, log, 0,
                  "idempotency: observe: %*sstore \"%V\": this request would have %s %ud %s (%ui "
                  "more such requests since the last message)",
                  where.size(), where.data(), &conf.store->name,
                  waits    ? "waited for the first one with this key, instead of"
                  : passes ? "been passed without protection, instead of"
                           : "been refused with",
                  text.status, text.code, line.suppressed);
    return text.code;
}

void log_difference(const Difference &difference, unsigned before, unsigned now,
                    const LocationConfig &conf, const KeyId &id, ngx_log_t *log)
{
    static LogLimit limit;
    LogLimit::Line line = limit.next(NGX_LOG_NOTICE);
    char key[kHexLength + 8];
    u_char what[sizeof(difference.names) + 128];
    u_char *end = what;
    u_char *last = what + sizeof(what);

    if (difference.status) {
        end = ngx_slprintf(end, last, ", status (%ud, now %ud)", before, now);
    }

    if (difference.fields) {
        end = ngx_slprintf(end, last, ", header fields (%*s)", difference.names_length,
                           difference.names);
    }

    if (difference.body) {
        end = ngx_slprintf(end, last, ", body");
    }

    std::string_view where = format_key(conf, &id, key);
    std::size_t comma = 2;

    ngx_log_error(line.level, log, 0,
                  "idempotency: observe: %*sstore \"%V\": a replay would have differed from the "
                  "response of the application: %*s (%ui more such requests since the last "
                  "message)",
                  where.size(), where.data(), &conf.store->name,
                  static_cast<std::size_t>(end - what) - comma, what + comma, line.suppressed);
}

}  // namespace idempotency
