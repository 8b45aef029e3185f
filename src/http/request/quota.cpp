#include "http/request/quota.h"

#include "nginx/quota_segment.h"

namespace idempotency {

namespace {

// Observed requests have counts of their own.
constexpr std::uint64_t kObserved = std::uint64_t(1) << 63;

}  // namespace

bool evaluate_quota(Context &context)
{
    const QuotaSource *quota = context.conf->quota;
    ngx_str_t value;

    if (quota == nullptr) {
        return true;
    }

    if (ngx_http_complex_value(context.request, quota->value, &value) != NGX_OK) {
        return false;
    }

    // as with limit_req, a request without a value is not limited
    if (value.len > 0) {
        std::uint64_t number = quota->number | (context.conf->observe ? kObserved : 0);

        context.quota_value = main_config(context.request)->quota->hash(number, view(value));
    }

    return true;
}

bool take_quota(Context &context)
{
    if (context.quota_value == 0) {
        return true;
    }

    QuotaSegment &table = *main_config(context.request)->quota;
    std::uint64_t wait = table.take(context.quota_value, context.conf->quota->limit);

    context.quota_taken = wait == 0;
    context.quota_wait = (wait + 999) / 1000;
    return context.quota_taken;
}

void give_quota_back(Context &context)
{
    if (context.quota_taken) {
        context.quota_taken = false;
        main_config(context.request)
            ->quota->give_back(context.quota_value, context.conf->quota->limit);
    }
}

}  // namespace idempotency
