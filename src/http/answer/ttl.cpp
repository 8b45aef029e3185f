#include "http/answer/ttl.h"

#include "http/config/arguments.h"
#include "nginx/log_limit.h"

namespace idempotency {

namespace {

// The first TIME of `idempotency_ttl`.  An empty value means the default.
Millis first_time(ngx_http_request_t *r, const LocationConfig &conf)
{
    ngx_str_t text;

    if (conf.ttl_value == nullptr || ngx_http_complex_value(r, conf.ttl_value, &text) != NGX_OK
        || text.len == 0)
    {
        return conf.ttl;
    }

    ngx_int_t time = parse_time(&text);

    if (time != NGX_ERROR && static_cast<Millis>(time) <= kLongestTtl) {
        return static_cast<Millis>(time);
    }

    static LogLimit limit;
    LogLimit::Line line = limit.next(NGX_LOG_WARN);

    ngx_log_error(line.level, r->connection->log, 0,
                  "idempotency: invalid value of \"%V\" in \"idempotency_ttl\": it must be a "
                  "time of at most 366 days, such as 30s or 24h; 24h is used (%ui more such "
                  "requests since the last message)",
                  &conf.ttl_value->value, line.suppressed);
    return conf.ttl;
}

}  // namespace

Millis response_ttl(Context &context)
{
    const LocationConfig &conf = *context.conf;
    ngx_http_request_t *r = context.request;

    if (context.accel_directives.ttl != 0) {
        return context.accel_directives.ttl;
    }

    Millis ttl = ttl_of_status(conf.ttl_rules, conf.ttl_rule_count,
                               static_cast<unsigned>(r->headers_out.status), 0);

    return ttl != 0 ? ttl : first_time(r, conf);
}

}  // namespace idempotency
