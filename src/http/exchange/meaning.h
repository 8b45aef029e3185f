// Makes out what the response of the application means (struct Meaning).

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// Reads the exchange of r->upstream, unless it was read before or has not reached the
// application.  The first exchange that has reached an application counts.  Only after a
// retriable response another one may take its place: with `error_page 429 = @name` the
// response of that location is one of its own.
void note_exchange(Context &context);

// The same when the header of the final response is there, which may come from a file or
// another module.  Whether `accel_directives` of this header count: they do not if an error page
// responds in place of the application.
bool note_response(Context &context);

// Whether the response of the current location is one without an upstream: of a file, of
// Lua.  False for nginx's own response to an exchange that has failed.
bool is_handled_without_upstream(const Context &context);

// Whether such a response counts: the first one, or one in place of a retriable response.
bool is_noted_without_upstream(const Context &context);

// `status`: of the application, or 0.
void set_meaning(Context &context, Origin origin, unsigned status);

// The origin so far: that of `meaning`, or how far the exchange of r->upstream has come
// (ngx_http_upstream_t::request_sent and ::state::header_time).
Origin origin_of(const Context &context);

}  // namespace idempotency
