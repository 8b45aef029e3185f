#include "http/exchange/request_end.h"

#include "http/exchange/exchange.h"
#include "http/exchange/guard.h"
#include "http/exchange/meaning.h"

namespace idempotency {

namespace {

static_assert(static_cast<unsigned>(Status::quota) - static_cast<unsigned>(Status::fresh)
              == static_cast<unsigned>(Count::quota) - static_cast<unsigned>(Count::fresh));

void count_request(const Context &context)
{
    // observed requests are counted when the store has replied
    if (context.status != Status::none && !context.conf->observe) {
        context.conf->store->counters->add(static_cast<Count>(
            static_cast<unsigned>(context.status) - static_cast<unsigned>(Status::fresh)));
    }
}

// A content handler without an upstream (`content_by_lua`) may have acted on the request
// before the request was ended.
Origin origin_at_end(const Context &context)
{
    if (context.meaning.known) {
        bool is_free = context.meaning.retriable || context.accel_directives.release;

        return is_free ? Origin::not_reached : context.meaning.origin;
    }

    return context.content_handler_called && is_handled_without_upstream(context)
                   && !is_body_missing(context.request)
               ? Origin::broken
               : origin_of(context);
}

}  // namespace

Settlement settlement_at_end(const Context &context)
{
    // the application has responded, and its stream has broken off
    if (context.stage == Stage::streaming) {
        return Settlement::not_kept;
    }

    return decide_without_response(origin_at_end(context),
                                   static_cast<UnknownPolicy>(context.conf->unknown));
}

void on_request_destroyed(Context &context)
{
    stop_timer(context);
    count_request(context);

    if (context.exchange == nullptr) {
        return;
    }

    context.exchange->detach();

    if (has_open_claim(context)) {
        Millis ttl = context.ttl != 0 ? context.ttl : context.conf->ttl;

        context.exchange->settle(settlement_at_end(context), ttl, nullptr);
    }

    context.exchange->drop_reference();
}

}  // namespace idempotency
