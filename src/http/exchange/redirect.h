// Internal redirects of a request: what led it where it is.

#pragma once

#include "http/exchange/context.h"

namespace idempotency {

// MainConfig::on_error_page.  Notes that the request is on its way to an error page, and
// what that means: whether it was refused before its key was claimed, or what has become of
// its exchange.  `is_named_location`: what the configuration shows of it, not the value of a
// variable.
void on_error_page(ngx_http_request_t *r, ngx_uint_t status, bool is_named_location);

// nginx's ngx_http_handler_pt, before all other handlers of their phase: they note where an
// internal redirect has led a request.  One to a URI begins in the SERVER_REWRITE phase, one
// to a named location behind it.
ngx_int_t on_server_rewrite(ngx_http_request_t *r);
ngx_int_t on_preaccess(ngx_http_request_t *r);

// The same, for a caller that has the context, behind the SERVER_REWRITE phase.
void note_redirect(Context &context);

// Call it in the PRECONTENT phase of each location of a claimed request: the access checks
// are over.  Returns what the phase handler returns.
ngx_int_t enter_content(Context &context);

// The same for a request that is barred, and on its way to an error page: its content handler gets
// it as a GET without a body, or not at all.
ngx_int_t enter_page(Context &context);

// The internal redirects since the claim, when the header of the response is there.
// `finish_hops` is false if they can't be recorded; it logs that.
bool finish_hops(Context &context);
std::string_view recorded_hops(const Context &context);

// Whether something in a location has refused a claimed request that no application has
// got: an access check, a limit, `return`, or a request body that can't be read.
bool is_refused(Context &context);

// Releases the claim of such a request.
void release_refused(Context &context);

// For a request on its way to an error page with a URI.  False if there is no memory.
bool take_body_away(ngx_http_request_t *r);

}  // namespace idempotency
