// The header fields of a response, between nginx and a record.

#pragma once

#include "http/exchange/context.h"
#include "http/exchange/exchange.h"

namespace idempotency {

// Writes the record of the response (status, header fields, what is held of the
// body) into memory of the exchange.  False if there is no memory, or if a record
// can't hold the fields.
bool write_response_record(ngx_http_request_t *r, Exchange &exchange, const LocationConfig &conf,
                           Millis lifetime);

// Fills r->headers_out from a record, whose memory has to live as long as the
// request.  NGX_OK or NGX_ERROR.
ngx_int_t restore_response(ngx_http_request_t *r, const Record &record);

// Null if there is no memory.  `name` and `value` are not copied.
ngx_table_elt_t *add_field(ngx_http_request_t *r, std::string_view name, std::string_view value);

// Removes the fields that only this module may send, and reads `X-Accel-Idempotency`
// into `word`.
void take_word(ngx_http_request_t *r, const LocationConfig &conf, Word &word);

}  // namespace idempotency
