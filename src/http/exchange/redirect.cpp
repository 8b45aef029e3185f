// A redirect within nginx (`error_page`, X-Accel-Redirect, `try_files`): the
// claim goes along, and so does what the upstream that is left behind has told.

#include "http/exchange/redirect.h"

#include "http/exchange/guard.h"
#include "http/exchange/word_header.h"

namespace idempotency {

namespace {

// X-Accel-Redirect and intercepted errors leave the application's own fields
// where they came in.
void collect_word(Context &context, const ngx_http_upstream_t &u)
{
    for (const ngx_list_part_t *part = &u.headers_in.headers.part; part != nullptr;
         part = part->next) {
        auto *field = static_cast<ngx_table_elt_t *>(part->elts);

        for (ngx_uint_t i = 0; i < part->nelts; i++) {
            if (is_word_header(field[i])) {
                read_word(view(field[i].value), context.word);
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
        collect_word(context, *r->upstream);
    }

    guard_upstream(context);
}

}  // namespace idempotency
