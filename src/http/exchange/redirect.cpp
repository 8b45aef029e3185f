#include "http/exchange/redirect.h"

#include "http/exchange/guard.h"
#include "http/exchange/accel_header.h"

namespace idempotency {

namespace {

// After X-Accel-Redirect or an intercepted error, the response headers of the application
// are only in `u.headers_in`.
void read_accel_headers(Context &context, const ngx_http_upstream_t &u)
{
    for (const ngx_list_part_t *part = &u.headers_in.headers.part; part != nullptr;
         part = part->next) {
        auto *field = static_cast<ngx_table_elt_t *>(part->elts);

        for (ngx_uint_t i = 0; i < part->nelts; i++) {
            if (is_accel_header(field[i])) {
                parse_word(view(field[i].value), context.accel_directives);
            }
        }
    }
}

}  // namespace

void continue_after_redirect(Context &context)
{
    ngx_http_request_t *r = context.request;
    Origin origin = origin_of(context);

    if (origin != Origin::not_reached) {
        context.previous_origin = origin;
    }

    if (r->upstream != nullptr && origin == Origin::application) {
        read_accel_headers(context, *r->upstream);
    }

    guard_upstream(context);
}

}  // namespace idempotency
