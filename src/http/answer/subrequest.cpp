// The output of a subrequest is not part of the held response: a content handler
// (`echo_location`) or an earlier filter (`slice`) sends it separately.  So such a response
// is not kept.

#include "http/answer/subrequest.h"

#include "http/answer/capture.h"
#include "http/answer/deliver.h"
#include "http/answer/pass_through.h"

namespace idempotency {

namespace {

bool goes_to_client(const ngx_http_request_t *sub)
{
    return !sub->subrequest_in_memory && !sub->background;
}

}  // namespace

bool has_subrequests(ngx_http_request_t *r) { return r->postponed != nullptr; }

// The held part of the body was produced before any subrequest was created, but the postpone
// filter would send the output of the subrequests first.  So they are taken off
// r->postponed meanwhile.
ngx_int_t start_pass_through_before_subrequests(Context &context, ngx_chain_t *rest)
{
    ngx_http_request_t *r = context.request;
    ngx_connection_t *c = r->connection;
    ngx_http_postponed_request_t *postponed = r->postponed;
    void *active = c->data;

    r->postponed = nullptr;
    c->data = r;

    ngx_int_t rc = start_pass_through(context, nullptr, Outcome::not_kept_stream);

    if (r->postponed == nullptr) {
        c->data = active;
    }

    // a later filter may have added a subrequest
    ngx_http_postponed_request_t **end = &r->postponed;

    while (*end != nullptr) {
        end = &(*end)->next;
    }

    *end = postponed;

    if (rc == NGX_ERROR || rest == nullptr) {
        return rc;
    }

    return pass_through(context, rest);
}

ngx_int_t on_subrequest_body(ngx_http_request_t *r, ngx_chain_t *in)
{
    Context *context = find_context(r->main);

    // the output of subrequests of a content handler is not recorded
    if (context != nullptr && context->stage == Stage::streaming && !context->from_upstream
        && goes_to_client(r)
        && start_pass_through(*context, nullptr, Outcome::not_kept_stream) == NGX_ERROR)
    {
        return NGX_ERROR;
    }

    if (context != nullptr && context->stage == Stage::capturing && goes_to_client(r)
        && start_pass_through_before_subrequests(*context, nullptr) == NGX_ERROR)
    {
        return NGX_ERROR;
    }

    if (context == nullptr || context->response_ended
        || (context->stage != Stage::passing_through && context->stage != Stage::streaming))
    {
        return next_body_filter(r, in);
    }

    // the end of the client's connection must not end the subrequest
    if (!context->client_disconnected) {
        ngx_int_t rc = next_body_filter(r, in);

        if (rc != NGX_ERROR) {
            return rc;
        }

        on_client_disconnected(*context);
    }

    mark_all_sent(in);
    return NGX_OK;
}

}  // namespace idempotency
