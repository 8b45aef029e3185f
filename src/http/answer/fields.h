// Converts the header fields of a response between nginx and a record.

#pragma once

#include "http/exchange/context.h"
#include "http/exchange/exchange.h"

namespace idempotency {

// Writes the record of the response (status, header fields, digest of the held body)
// into memory of the exchange.  `head` is r->headers_out, or a copy of it that was made before
// the header was sent.  `lifetime` is in milliseconds, `hops` is what a HopWriter has written.
// False if there is no memory, or if the fields don't fit into a record.
bool write_response_record(ngx_http_request_t *r, ngx_http_headers_out_t &head, Exchange &exchange,
                           const LocationConfig &conf, Millis lifetime, std::string_view hops);

// A copy of r->headers_out: the filters of nginx change it when the header is sent.  Null if there
// is no memory.
ngx_http_headers_out_t *copy_head(ngx_http_request_t *r);

// Gets the header fields of a response one by one.
class FieldVisitor {
public:
    virtual void add(const Header &header) = 0;

protected:
    ~FieldVisitor() = default;
};

// Calls `visitor` for each field that is kept, in the order of the response: first those of the
// header, later, when its end is there, the trailers.
void visit_kept_fields(ngx_http_request_t *r, const LocationConfig &conf, FieldVisitor &visitor);
void visit_kept_trailers(ngx_http_request_t *r, const LocationConfig &conf, FieldVisitor &visitor);

// Fills r->headers_out from a record, whose memory must live as long as the request.
// NGX_OK or NGX_ERROR.
ngx_int_t restore_response(ngx_http_request_t *r, const Record &record);

// Adds a response header.  `name` and `value` are not copied.  Null if there is no
// memory.
ngx_table_elt_t *add_field(ngx_http_request_t *r, std::string_view name, std::string_view value);

}  // namespace idempotency
