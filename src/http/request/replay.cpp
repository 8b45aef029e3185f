#include "http/request/replay.h"

#include <new>

#include "core/printable.h"
#include "http/answer/fields.h"
#include "http/answer/problem.h"
#include "http/exchange/exchange.h"
#include "http/exchange/redirect.h"
#include "http/exchange/unsent_memory.h"
#include "nginx/log_limit.h"

namespace idempotency {

namespace {

constexpr Millis kRetryAfter = 1000;

// The buffer points to memory of the exchange, which lives as long as the request.
ngx_buf_t *body_buffer(ngx_http_request_t *r, std::string_view body)
{
    ngx_buf_t *b = allocate<ngx_buf_t>(r->pool);

    if (b == nullptr) {
        return nullptr;
    }

    b->last_buf = 1;

    // for an empty buffer with `memory` set, the write filter logs an alert
    if (!body.empty()) {
        b->pos = b->start = reinterpret_cast<u_char *>(const_cast<char *>(body.data()));
        b->last = b->end = b->pos + body.size();
        b->memory = 1;
    }

    return b;
}

ngx_int_t send_response(ngx_http_request_t *r, std::string_view body)
{
    ngx_int_t rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    ngx_chain_t out{body_buffer(r, body), nullptr};

    return out.buf != nullptr ? ngx_http_output_filter(r, &out) : NGX_ERROR;
}

ngx_int_t send_record(Context &context, const Record &record)
{
    ngx_http_request_t *r = context.request;
    std::size_t size = context.exchange->reply().value.size();

    if (!unsent_memory(context).make_space(context, size)) {
        return refuse_request(context, Status::store_error, kRetryAfter);
    }

    ngx_int_t rc = discard_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    context.stage = Stage::inactive;
    context.status = Status::replayed;
    r->err_status = 0;
    context.conf->store->counters->add(Count::replayed_bytes, size);

    // Conditional headers of this request don't change the replayed response; nor does a
    // Range header, since r->allow_ranges is not set.
    r->disable_not_modified = 1;

    if (restore_response(r, record) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (context.conf->replayed_header.len > 0
        && add_field(r, view(context.conf->replayed_header), "true") == nullptr)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = send_response(r, record.body);
    unsent_memory(context).add_unless_sent(context, rc, size);
    context.exchange->end_loading();
    ngx_http_finalize_request(r, rc);
    return NGX_DONE;
}

// ngx_http_named_location responds 500 for a location that does not exist.
bool has_named_location(ngx_http_request_t *r, std::string_view name)
{
    auto *server = static_cast<ngx_http_core_srv_conf_t *>(
        ngx_http_get_module_srv_conf(r, ngx_http_core_module));

    if (server->named_locations == nullptr) {
        return false;
    }

    // their type differs between nginx and Angie
    for (auto location = server->named_locations; *location != nullptr; location++) {
        if (view((*location)->name) == name) {
            return true;
        }
    }

    return false;
}

bool is_named(const Hop &hop) { return hop.target.front() == '@'; }

ngx_int_t refuse_replay(Context &context, std::string_view target)
{
    // nginx has decoded the URI: it may have any bytes
    PrintableText<kLargestHops> text(target);

    static LogLimit limit;
    LogLimit::Line line = limit.next(NGX_LOG_ERR);

    ngx_log_error(line.level, context.request->connection->log, 0,
                  "idempotency: the kept response is not replayed: an internal redirect to "
                  "\"%*s\" does not lead any more to the location of the response, because the "
                  "configuration has changed or depends on the request (%ui more such requests "
                  "since the last message)",
                  text.size(), text.data(), line.suppressed);
    return refuse_request(context, Status::not_kept, 0);
}

ngx_int_t redirect_to_next_hop(Context &context)
{
    ngx_http_request_t *r = context.request;
    Replay &replay = *context.replay;

    if (!replay.cursor.next(replay.hop)
        || (is_named(replay.hop) && !has_named_location(r, replay.hop.target)))
    {
        return refuse_replay(context, replay.hop.target);
    }

    if (replay.hop.becomes_get && r->method != NGX_HTTP_HEAD) {
        r->method = NGX_HTTP_GET;
        r->method_name = ngx_http_core_get_method;
    }

    // for what the location responds itself, such as a refusal
    r->err_status = replay.hop.status;
    r->error_page = replay.hop.ends_pages;

    ngx_str_t target = to_ngx(replay.hop.target);

    replay.begins_hop = true;

    if (is_named(replay.hop)) {
        (void) ngx_http_named_location(r, &target);
    } else {
        ngx_str_t args = r->args;

        (void) ngx_http_internal_redirect(r, &target, &args);
    }

    // both functions take a reference, as for ngx_http_try_files_handler
    ngx_http_finalize_request(r, NGX_DONE);
    return NGX_DONE;
}

}  // namespace

ngx_int_t replay(Context &context, const Record &record)
{
    if (record.hops.empty()) {
        return send_record(context, record);
    }

    void *memory = ngx_palloc(context.request->pool, sizeof(Replay));

    if (memory == nullptr) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    context.replay = new (memory) Replay{record, HopCursor(record.hops), Hop(), false, false};
    context.stage = Stage::redirecting_replay;
    return redirect_to_next_hop(context);
}

ngx_int_t continue_replay(Context &context)
{
    Replay &replay = *context.replay;
    const ngx_http_core_loc_conf_t &location = location_of(context.request);

    note_redirect(context);

    if (!replay.is_at_hop || (is_named(replay.hop) && view(location.name) != replay.hop.target)) {
        return refuse_replay(context, replay.hop.target);
    }

    if (replay.cursor.left() > 0) {
        return redirect_to_next_hop(context);
    }

    if (view(location.name) != replay.cursor.location()) {
        return refuse_replay(context, replay.hop.target);
    }

    return send_record(context, replay.record);
}

}  // namespace idempotency
