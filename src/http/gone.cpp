// A request is no more; its claim may still be held.

#include "http/steps.h"

namespace idempotency {

// From the cleanup of the request's pool: nothing may be allocated there.
void on_request_gone(Context &context)
{
    stop_timer(context);

    if (context.exchange == nullptr) {
        return;
    }

    context.exchange->sever();

    if (context.stage == Stage::executing || context.stage == Stage::withholding) {
        context.exchange->settle(
            decide_without_answer(origin_of(context),
                                  static_cast<UnknownPolicy>(context.conf->unknown)),
            context.conf->ttl);
    }

    context.exchange->drop();
}

}  // namespace idempotency
