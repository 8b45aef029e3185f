// What an exchange writes into the error log.  Each line names the store, the key, the claim, the
// client and the request, also after the request has ended.

#include "http/exchange/context.h"
#include "http/exchange/exchange.h"

namespace idempotency {

// Not the arguments, which may have a credential.  nginx has them in its own part of the line as
// long as the request lives.
void Exchange::remember_request(const ngx_http_request_t *r)
{
    bool has_ended = phase_ == Phase::idle || phase_ == Phase::ended;

    if ((has_ended && !is_renewing_) || remembered_.data != nullptr) {
        return;
    }

    std::string_view line = view(r->request_line);
    std::size_t arguments = line.find('?');
    std::size_t protocol = line.rfind(' ');
    std::string_view end;

    if (arguments != line.npos) {
        end = protocol != line.npos && protocol > arguments ? line.substr(protocol) : end;
        line = line.substr(0, arguments);
    }

    u_char buffer[512];
    u_char *last =
        ngx_snprintf(buffer, sizeof(buffer), ", client: %V, request: \"%*s%*s\"",
                     &r->connection->addr_text, line.size(), line.data(), end.size(), end.data());
    ngx_str_t text = {static_cast<std::size_t>(last - buffer), buffer};

    remembered_.data = ngx_pstrdup(pool_, &text);
    remembered_.len = remembered_.data != nullptr ? text.len : 0;
}

void Exchange::log(ngx_uint_t level, const char *event, LogLimit *limit) const
{
    char id[kHexLength];
    const ngx_str_t nothing = ngx_null_string;
    u_char suppressed[sizeof(" ( more such requests since the last message)") + NGX_INT_T_LEN];
    u_char *end = suppressed;
    ngx_log_t *log = context_ != nullptr ? context_->request->connection->log : ngx_cycle->log;

    if (limit != nullptr) {
        LogLimit::Line line = limit->next(level);

        level = line.level;
        end = ngx_sprintf(suppressed, " (%ui more such requests since the last message)",
                          line.suppressed);
    }

    write_hex(stored_id(), id);
    ngx_log_error(level, log, 0, "idempotency: key %*s in store \"%V\", token %uL: %s%*s%V",
                  kHexLength, id, &conf_->store->name, static_cast<uint64_t>(token_), event,
                  static_cast<std::size_t>(end - suppressed), suppressed,
                  context_ != nullptr ? &nothing : &remembered_);
}

}  // namespace idempotency
