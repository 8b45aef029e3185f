// A request is no more; its claim may still be held.

#include "http/exchange/request_end.h"

#include "http/exchange/exchange.h"
#include "http/exchange/guard.h"

namespace idempotency {

namespace {

// A content handler without an upstream (`content_by_lua`) tells nothing of what
// it had done when it was cut off.
Origin origin_at_end(const Context &context)
{
    ngx_http_request_t *r = context.request;

    return context.handled && !context.exchange_failed && r->upstream == nullptr && !r->reading_body
               ? Origin::broken
               : origin_of(context);
}

static_assert(static_cast<unsigned>(Status::unscoped) - static_cast<unsigned>(Status::fresh)
              == static_cast<unsigned>(Count::unscoped) - static_cast<unsigned>(Count::fresh));

void count_request(const Context &context)
{
    if (context.status != Status::none) {
        context.conf->store->counters->add(static_cast<Count>(
            static_cast<unsigned>(context.status) - static_cast<unsigned>(Status::fresh)));
    }
}

}  // namespace

// From the cleanup of the request's pool: nothing may be allocated there.
void on_request_destroyed(Context &context)
{
    stop_timer(context);
    count_request(context);

    if (context.exchange == nullptr) {
        return;
    }

    context.exchange->detach();

    if (awaits_response(context)) {
        context.exchange->settle(
            decide_without_answer(origin_at_end(context),
                                  static_cast<UnknownPolicy>(context.conf->unknown)),
            context.conf->ttl, nullptr);
    }

    context.exchange->drop();
}

}  // namespace idempotency
