#include "http/config/module_order.h"

#include "http/config/config.h"

namespace idempotency {

void move_behind_other_filters(ngx_cycle_t *cycle)
{
    ngx_module_t *copy_filter = find_module(cycle, "ngx_http_copy_filter_module");

    if (copy_filter == nullptr) {
        return;
    }

    ngx_module_t **own = nullptr;
    ngx_module_t **end = nullptr;

    for (ngx_module_t **m = cycle->modules; *m != nullptr; m++) {
        if (*m == &ngx_http_idempotency_module) {
            own = m;
        } else if (*m == copy_filter) {
            end = m;
        }
    }

    if (own == nullptr || end == nullptr) {
        return;
    }

    // everything between the old and the new place moves by one place
    if (own < end) {
        ngx_memmove(own, own + 1, (end - own - 1) * sizeof(*own));
        end[-1] = &ngx_http_idempotency_module;
    } else {
        ngx_memmove(end + 1, end, (own - end) * sizeof(*own));
        *end = &ngx_http_idempotency_module;
    }
}

}  // namespace idempotency
