// They run where those of capture.cpp run: after the copy filter, before `add_header`, `sub_filter`,
// SSI and gzip.  So they see what would have been kept.

#include "http/observe/filters.h"

#include "http/answer/settle.h"
#include "http/answer/stream.h"
#include "http/answer/subrequest.h"
#include "http/exchange/redirect.h"
#include "http/observe/observation.h"
#include "http/observe/variables_guard.h"

namespace idempotency {

namespace {

ngx_http_output_header_filter_pt next_observed_header_filter;
ngx_http_output_body_filter_pt next_observed_body_filter;

Context *observed_context(ngx_http_request_t *r)
{
    Context *context = r == r->main ? find_context(r) : nullptr;

    return context != nullptr && context->observation != nullptr
                   && !context->observation->has_ended()
               ? context
               : nullptr;
}

void end_as(Context &context, Outcome outcome)
{
    ObservedOutcome end;

    end.outcome = outcome;
    end.lifetime = context.ttl != 0 ? context.ttl : context.conf->ttl;
    context.observation->end(end);
}

void end_unseen(Context &context)
{
    ObservedOutcome outcome;

    outcome.unseen = true;
    outcome.outcome = Outcome::kept;
    outcome.lifetime = context.conf->ttl;
    context.observation->end(outcome);
}

void end_complete(Context &context)
{
    ngx_http_request_t *r = context.request;
    Observation &observation = *context.observation;
    ObservedResponse &response = observation.response();
    VariablesGuard guard(r);

    if (!guard.usable()) {
        end_unseen(context);
        return;
    }

    response.read_end(r, *context.conf);
    read_response_end(context);

    if (response.is_too_large()) {
        give_up_keeping(context, Outcome::not_kept_size);
    }

    if (observation.has_foreign_parts) {
        give_up_keeping(context, Outcome::not_kept_stream);
    }

    ObservedOutcome outcome;

    outcome.outcome = context.outcome;
    outcome.lifetime = context.outcome_unknown && context.outcome == Outcome::kept
                           ? observation.hold()
                           : context.ttl;
    outcome.comparable =
        context.facts.origin == Origin::application && !observation.has_foreign_parts;
    observation.end(outcome);
}

void end_broken(Context &context)
{
    end_as(context, context.observation->is_stream
                        ? Outcome::not_kept_stream
                        : decide_without_response(
                            Origin::broken, static_cast<UnknownPolicy>(context.conf->unknown)));
}

void observe_head(Context &context)
{
    ngx_http_request_t *r = context.request;
    Observation &observation = *context.observation;

    if (r->headers_out.status == NGX_HTTP_SWITCHING_PROTOCOLS) {
        end_as(context, Outcome::released_upgrade);
        return;
    }

    // nginx before 1.29 takes an interim response (1xx) for the response
    if (r->headers_out.status < NGX_HTTP_OK) {
        end_as(context, Outcome::not_kept_stream);
        return;
    }

    VariablesGuard guard(r);

    if (!guard.usable()) {
        end_unseen(context);
        return;
    }

    if (is_refused(context)) {
        end_as(context, Outcome::released_refused);
        return;
    }

    observation.head_seen = true;
    read_response_head(context);
    observation.is_stream = is_stream(context);
    observation.content_length = r->headers_out.content_length_n;
    observation.has_foreign_parts = has_subrequests(r) && !context.from_upstream;
    observation.response().read_head(r, *context.conf);
}

// nginx's ngx_http_output_header_filter_pt
ngx_int_t on_header(ngx_http_request_t *r)
{
    Context *context = observed_context(r);

    if (context != nullptr && !context->observation->head_seen) {
        observe_head(*context);
    }

    ngx_int_t rc = next_observed_header_filter(r);

    // no body follows
    if (r->header_only && context != nullptr && context->observation->head_seen
        && !context->observation->has_ended())
    {
        end_complete(*context);
    }

    return rc;
}

bool differs_from_length(const Context &context)
{
    const Observation &observation = *context.observation;
    ngx_uint_t status = context.request->headers_out.status;

    return observation.content_length >= 0 && status != NGX_HTTP_NO_CONTENT
           && status != NGX_HTTP_NOT_MODIFIED
           && static_cast<std::uint64_t>(observation.content_length)
                  != context.observation->response().body_size();
}

void observe_body(Context &context, ngx_chain_t *in)
{
    Observation &observation = *context.observation;

    for (ngx_chain_t *link = in; link != nullptr; link = link->next) {
        ngx_buf_t *b = link->buf;

        observation.response().read_body(b, context.conf->max_body);

        if (context.grpc_kind != GrpcKind::none && ngx_buf_in_memory(b)) {
            context.grpc_messages.feed({reinterpret_cast<const char *>(b->pos),
                                        static_cast<std::size_t>(b->last - b->pos)});
        }

        if (is_truncated(context, b) || (b->last_buf && differs_from_length(context))) {
            end_broken(context);
            return;
        }

        if (b->last_buf) {
            end_complete(context);
            return;
        }
    }
}

// nginx's ngx_http_output_body_filter_pt.  The outcome is on its way to the store before the end of
// the response is on its way to the client.
ngx_int_t on_body(ngx_http_request_t *r, ngx_chain_t *in)
{
    Context *context = observed_context(r);

    if (context != nullptr && context->observation->head_seen) {
        observe_body(*context, in);
    }

    return next_observed_body_filter(r, in);
}

}  // namespace

void install_observation()
{
    next_observed_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = on_header;
    next_observed_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = on_body;
}

}  // namespace idempotency
