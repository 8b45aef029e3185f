#include "http/exchange/redirect.h"

#include <new>

#include "http/exchange/exchange.h"
#include "http/exchange/guard.h"
#include "http/exchange/meaning.h"
#include "nginx/list.h"
#include "nginx/log_limit.h"

namespace idempotency {

namespace {

// An unbuffered body (`proxy_request_buffering off`) is read while the exchange runs.
bool is_body_unreadable(const Context &context)
{
    ngx_http_request_t *r = context.request;

    // ngx_http_read_client_request_body leaves `rest` at -1 where there is no body
    bool has_body = r->headers_in.content_length_n > 0 || r->headers_in.chunked;

    return context.client_body_incomplete
           || (has_body && r->request_body != nullptr && r->request_body->rest != 0
               && !r->reading_body);
}

// The content handler has ended without an upstream: with a 5xx it may have acted.
void note_status_without_upstream(Context &context, ngx_uint_t status)
{
    if (context.content_handler_called && is_noted_without_upstream(context)) {
        set_meaning(context, Origin::application, static_cast<unsigned>(status));
    }
}

enum class Target { uri, named_location };

// Not `location.named`: the block of a `limit_except` or an `if` has only the name.
bool is_named(const ngx_http_core_loc_conf_t &location)
{
    return location.name.len > 0 && location.name.data[0] == '@';
}

// A redirect out of access checks (`return`, access_by_lua) can't be told from a refusal when
// a replay passes it, nor can the named location that `rewrite ... last` or rewrite_by_lua has
// left: a replay would not pass its checks.
bool add_hop(Context &context, Target target)
{
    ngx_http_request_t *r = context.request;
    const ngx_http_core_loc_conf_t &location = location_of(r);

    bool has_left_location = context.uri_changes - r->uri_changes != 1;

    if (context.is_in_checks || has_left_location
        || (target == Target::named_location && !is_named(location)))
    {
        return false;
    }

    if (context.hops == nullptr) {
        auto *memory =
            static_cast<unsigned char *>(ngx_palloc(r->pool, sizeof(HopWriter) + kLargestHops));

        if (memory == nullptr) {
            return false;
        }

        context.hops = new (memory) HopWriter(memory + sizeof(HopWriter));
    }

    bool is_get = r->method == NGX_HTTP_GET && !context.is_get;

    context.is_get |= is_get;
    context.hops->add({view(target == Target::uri ? r->uri : location.name), is_get,
                       static_cast<unsigned>(r->err_status), r->error_page != 0});
    return context.hops->fits();
}

// The named location of an error page may have redirected the request before it was noted
// (rewrite_by_lua).  A page with a URI makes it a GET, unless it is HEAD.
bool is_page_with_uri(const Context &context)
{
    return !context.page_is_named
           && (context.request->method & (NGX_HTTP_GET | NGX_HTTP_HEAD)) != 0;
}

void note_redirect_to(Context &context, Target target)
{
    if (!context.redirected) {
        return;
    }

    context.redirected = false;

    if (context.follows_error_page) {
        context.follows_error_page = false;
        context.became_get |= target == Target::uri && is_page_with_uri(context);
    }

    if (context.stage == Stage::executing) {
        note_exchange(context);
        context.hops_lost |= !add_hop(context, target);
        context.is_in_checks = true;

    } else if (context.stage == Stage::redirecting_replay) {
        context.replay->is_at_hop = context.replay->begins_hop;
        context.replay->begins_hop = false;
    }
}

void follow_from_exchange(Context &context, ngx_uint_t status)
{
    note_redirect(context);

    if (is_refused(context)) {
        release_refused(context);
        return;
    }

    note_exchange(context);
    note_status_without_upstream(context, status);

    const Meaning &meaning = context.meaning;

    if (meaning.known
        && (meaning.origin == Origin::broken
            || (meaning.status >= NGX_HTTP_INTERNAL_SERVER_ERROR && !meaning.retriable)))
    {
        context.barred = true;
    }
}

// A later filter (`image_filter`, `header_filter_by_lua`) refuses the response of an exchange that
// was sent, its replay, or the module's own response.
bool is_replaced_by_filter(const Context &context)
{
    bool is_answered = context.status == Status::replayed || context.problem_code != nullptr;

    return context.stage == Stage::streaming || context.stage == Stage::passing_through
           || (context.stage == Stage::inactive && is_answered && !context.conf->observe);
}

void note_internal_redirect(ngx_http_request_t *r, Target target)
{
    if (!r->internal || r != r->main || r->post_action) {
        return;
    }

    Context *context = find_context(r);

    if (context != nullptr) {
        note_redirect_to(*context, target);
    }
}

bool mark_refused(ngx_http_request_t *r)
{
    Context *context = create_context(r, location_config(r), Status::none);

    if (context != nullptr) {
        context->stage = Stage::refused;
    }

    return context != nullptr;
}

}  // namespace

void on_error_page(ngx_http_request_t *r, ngx_uint_t status, bool is_named_location)
{
    if (r != r->main || r->post_action) {
        return;
    }

    Context *context = find_context(r);

    if (context == nullptr) {
        // without the mark the error page could be taken for an arrival: no page follows a
        // request that may not be redirected any more (ngx_http_named_location)
        if (!mark_refused(r)) {
            r->uri_changes = 1;
        }
        return;
    }

    switch (context->stage) {
    case Stage::before_try_files:
    case Stage::reading_body:
    case Stage::claiming:
    case Stage::claim_replied:
    case Stage::redirecting_replay:
    case Stage::waiting_to_claim:
        context->stage = Stage::refused;
        break;

    case Stage::executing:
        follow_from_exchange(*context, status);
        break;

    default:
        context->barred |= is_replaced_by_filter(*context);
        break;
    }

    context->follows_error_page = true;
    context->page_is_named = is_named_location;
    context->passes_status = r->err_status == 0;
    context->error_status = status;
}

void note_redirect(Context &context) { note_redirect_to(context, Target::named_location); }

ngx_int_t on_server_rewrite(ngx_http_request_t *r)
{
    note_internal_redirect(r, Target::uri);
    return NGX_DECLINED;
}

ngx_int_t on_preaccess(ngx_http_request_t *r)
{
    note_internal_redirect(r, Target::named_location);
    return NGX_DECLINED;
}

bool finish_hops(Context &context)
{
    if (context.hops != nullptr && !context.hops_lost) {
        context.hops->finish(view(location_of(context.request).name));
        context.hops_lost = !context.hops->fits();
    }

    if (context.hops_lost) {
        static LogLimit limit;
        LogLimit::Line line = limit.next(NGX_LOG_WARN);

        ngx_log_error(line.level, context.request->connection->log, 0,
                      "idempotency: the internal redirects to the location of this response "
                      "can't be recorded: it is recorded as not kept; redirect in fewer steps (%ui "
                      "more such requests since the last message)",
                      line.suppressed);
    }

    return !context.hops_lost;
}

std::string_view recorded_hops(const Context &context)
{
    return context.hops != nullptr ? context.hops->data() : std::string_view();
}

bool is_refused(Context &context)
{
    note_redirect(context);
    note_exchange(context);

    return !context.meaning.known && (context.is_in_checks || is_body_unreadable(context));
}

void release_refused(Context &context)
{
    if (!advance(context, Stage::refused)) {
        return;
    }

    context.status = Status::none;
    context.exchange->settle(Outcome::released_refused, 0, nullptr);
}

ngx_int_t enter_page(Context &context)
{
    ngx_http_request_t *r = context.request;

    if (!context.became_get) {
        // nginx's own page: no second error page
        r->error_page = 1;
        r->err_status = 0;
        return static_cast<ngx_int_t>(context.error_status);
    }

    return take_body_away(r) ? NGX_DECLINED : NGX_HTTP_INTERNAL_SERVER_ERROR;
}

ngx_int_t enter_content(Context &context)
{
    ngx_http_request_t *r = context.request;

    note_redirect(context);
    context.is_in_checks = false;
    context.uri_changes = r->uri_changes;
    context.content_handler_called = false;
    context.previous_upstream = r->upstream;

    if (context.barred) {
        ngx_int_t rc = enter_page(context);

        if (rc != NGX_DECLINED) {
            return rc;
        }
    }

    guard_upstream(context);
    return NGX_DECLINED;
}

namespace {

// Without `Content-Length` and `Transfer-Encoding`: content handlers pass on the list.
bool copy_headers_without_body(ngx_http_request_t *r)
{
    ngx_list_t copy;

    if (ngx_list_init(&copy, r->pool, 8, sizeof(ngx_table_elt_t)) != NGX_OK) {
        return false;
    }

    for (ngx_table_elt_t &field : HeaderFields(r->headers_in.headers)) {
        if (equal_ignoring_case(view(field.key), "Content-Length")
            || equal_ignoring_case(view(field.key), "Transfer-Encoding"))
        {
            continue;
        }

        auto *added = static_cast<ngx_table_elt_t *>(ngx_list_push(&copy));

        if (added == nullptr) {
            return false;
        }

        *added = field;
    }

    r->headers_in.headers = copy;

    // ngx_list_push compares with the address of the part
    if (r->headers_in.headers.last == &copy.part) {
        r->headers_in.headers.last = &r->headers_in.headers.part;
    }

    return true;
}

}  // namespace

bool take_body_away(ngx_http_request_t *r)
{
    bool is_read = r->request_body != nullptr
                       ? r->request_body->rest == 0 && !r->reading_body
                       : r->headers_in.content_length_n <= 0 && !r->headers_in.chunked;
    auto *empty = allocate<ngx_http_request_body_t>(r->pool);

    if (empty == nullptr || !copy_headers_without_body(r)) {
        return false;
    }

#if (NGX_HTTP_V2)
    if (r->stream != nullptr) {
        r->stream->skip_data = 1;
        is_read = true;
    }
#endif

    // what the client still sends is read and dropped before the connection is closed
    if (!is_read) {
        r->keepalive = 0;
        r->lingering_close = 1;
    }

    r->reading_body = 0;
    r->request_body = empty;
    r->request_body_no_buffering = 0;
    r->headers_in.content_length = nullptr;
    r->headers_in.content_length_n = -1;
    r->headers_in.transfer_encoding = nullptr;
    r->headers_in.chunked = 0;
    r->expect_tested = 1;
    return true;
}

}  // namespace idempotency
