#include "http/exchange/request_end.h"

#include "http/exchange/exchange.h"
#include "http/exchange/guard.h"
#include "http/exchange/meaning.h"
#include "http/exchange/unsent_memory.h"

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
bool may_have_acted(const Context &context)
{
    return context.content_handler_called && is_noted_without_upstream(context)
           && !is_body_missing(context.request);
}

void end_claim(Context &context)
{
    if (context.exchange == nullptr || !has_open_claim(context)) {
        return;
    }

    // another exchange may have taken the place of one that was retriable
    note_exchange(context);

    Millis ttl = context.ttl != 0 ? context.ttl : context.conf->ttl;
    Outcome outcome = outcome_at_end(context);

    stop_timer(context);
    context.stage = Stage::inactive;
    context.exchange->settle(outcome, ttl, nullptr);
}

}  // namespace

Outcome outcome_at_end(const Context &context)
{
    // the application has responded, and its stream has broken off
    if (context.stage == Stage::streaming) {
        return Outcome::not_kept_stream;
    }

    auto policy = static_cast<UnknownPolicy>(context.conf->unknown);

    if (may_have_acted(context)) {
        return decide_without_response(Origin::broken, policy);
    }

    if (context.meaning.known && context.accel_directives.release) {
        return Outcome::released_word;
    }

    if (context.meaning.known && context.meaning.retriable) {
        return Outcome::released_status;
    }

    return decide_without_response(origin_of(context), policy);
}

ngx_int_t on_log(ngx_http_request_t *r)
{
    Context *context = r == r->main ? find_context(r) : nullptr;

    if (context != nullptr && context->exchange != nullptr) {
        end_claim(*context);
        context->exchange->remember_request(r);
    }

    return NGX_OK;
}

void on_request_destroyed(Context &context)
{
    stop_timer(context);
    set_waiting(context, false);
    count_request(context);

    if (context.exchange == nullptr) {
        return;
    }

    end_claim(context);
    unsent_memory(context).remove(context);
    context.exchange->detach();
    context.exchange->drop_reference();
}

}  // namespace idempotency
