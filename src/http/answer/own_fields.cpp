#include "http/answer/own_fields.h"

#include "http/exchange/accel_header.h"
#include "nginx/list.h"

namespace idempotency {

void take_own_fields(ngx_list_t &list, const LocationConfig &conf, Word &directives)
{
    for (ngx_table_elt_t &field : HeaderFields(list)) {
        bool is_word = is_accel_header(field);

        if (field.hash == 0) {
            continue;
        }

        if (is_word) {
            parse_word(view(field.value), directives);
        }

        bool is_own = is_word
                      || (conf.replayed_header.len > 0
                          && equal_ignoring_case(view(field.key), view(conf.replayed_header)));

        if (is_own && !conf.observe) {
            field.hash = 0;
        }
    }
}

void clean_fields(ngx_http_request_t *r, const Context *context, ngx_list_t &list)
{
    const LocationConfig *conf = context != nullptr ? context->conf : location_config(r);
    bool is_replay = context != nullptr && context->status == Status::replayed;
    Word ignored;

    if (conf->store != nullptr && !is_replay) {
        take_own_fields(list, *conf, ignored);
    }
}

}  // namespace idempotency
