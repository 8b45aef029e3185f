#include <new>

#include "http/request/body_digest.h"

#include "http/request/claim.h"
#include "nginx/list.h"

namespace idempotency {

namespace {

ngx_http_request_body_filter_pt next_request_body_filter;

constexpr size_t kFileReadSize = 64 * 1024;  // bytes
constexpr size_t kDigestStep = 1024 * 1024;  // bytes: about a millisecond

// In milliseconds, between two steps.  A handler that sets its timer to 0 is called again at once
// (ngx_event_expire_timers), before other events.
constexpr ngx_msec_t kStepInterval = 1;

void destroy_digest(void *data) { static_cast<Sha256 *>(data)->~Sha256(); }

std::string_view unchanged(std::string_view value) { return value; }

// Calls `visit` with the value of each header with this name (lower case).
template <typename Visit>
void visit_headers(ngx_http_request_t *r, std::string_view name, Visit visit)
{
    for (ngx_table_elt_t &field : HeaderFields(r->headers_in.headers)) {
        if (has_name(field, name)) {
            visit(view(field.value));
        }
    }
}

// The values of all headers with this name (lower case), each through `extract`, joined with
// commas.  False if there is no memory.
bool join_headers(ngx_http_request_t *r, std::string_view name,
                  std::string_view (*extract)(std::string_view), std::string_view &out)
{
    size_t count = 0;
    size_t size = 0;

    out = {};
    visit_headers(r, name, [&](std::string_view value) {
        out = extract(value);
        size += 1 + out.size();
        count++;
    });

    if (count < 2) {
        return true;
    }

    auto *joined = static_cast<u_char *>(ngx_pnalloc(r->pool, size));

    if (joined == nullptr) {
        return false;
    }

    u_char *end = joined;

    visit_headers(r, name, [&](std::string_view value) {
        std::string_view part = extract(value);

        *end++ = ',';
        end = ngx_cpymem(end, part.data(), part.size());
    });

    out = {reinterpret_cast<char *>(joined + 1), size - 1};
    return true;
}

bool start_digest(Context &context)
{
    ngx_http_request_t *r = context.request;
    ngx_pool_cleanup_t *cleanup = ngx_pool_cleanup_add(r->pool, sizeof(Sha256));

    if (cleanup == nullptr) {
        return false;
    }

    context.body_digest = new (cleanup->data) Sha256(main_config(r)->digester->method());
    cleanup->handler = destroy_digest;

    std::string_view type, encoding;

    return join_headers(r, "content-type", media_type, type)
           && join_headers(r, "content-encoding", unchanged, encoding)
           && start_body_digest(*context.body_digest, type, encoding);
}

std::string_view bytes_in_memory(const ngx_buf_t *b)
{
    return {reinterpret_cast<const char *>(b->pos), static_cast<size_t>(b->last - b->pos)};
}

void digest_observed_part(Context &context, ngx_chain_t *in)
{
    for (ngx_chain_t *link = in; link != nullptr && context.observes_body; link = link->next) {
        context.observes_body = context.body_digest->update(bytes_in_memory(link->buf));

        if (context.observes_body && link->buf->last_buf) {
            context.observes_body = false;
            context.on_body_digested(context);
        }
    }
}

// nginx's ngx_http_request_body_filter_pt
ngx_int_t on_request_body_part(ngx_http_request_t *r, ngx_chain_t *in)
{
    auto *context = static_cast<Context *>(ngx_http_get_module_ctx(r, ngx_http_idempotency_module));

    if (context != nullptr && context->observes_body) {
        digest_observed_part(*context, in);
    }

    if (context != nullptr && context->stage == Stage::reading_body) {
        for (ngx_chain_t *link = in; link != nullptr; link = link->next) {
            if (!context->body_digest->update(bytes_in_memory(link->buf))) {
                return NGX_HTTP_INTERNAL_SERVER_ERROR;
            }
        }
    }

    return next_request_body_filter(r, in);
}

ssize_t digest_file_part(Context &context, ngx_buf_t *b, u_char *buffer, off_t offset)
{
    // of an observed request: the upstream has responded (ngx_http_upstream_send_response)
    if (b->file->fd == NGX_INVALID_FILE) {
        return NGX_ERROR;
    }

    size_t size = static_cast<size_t>(ngx_min(b->file_last - offset, off_t(kFileReadSize)));
    ssize_t n = ngx_read_file(b->file, buffer, size, offset);

    return n > 0 && context.body_digest->update({reinterpret_cast<char *>(buffer), size_t(n)})
               ? n
               : NGX_ERROR;
}

// Another module has read the body before, so the body filter does not see it.  A large body is
// digested in steps, between which other requests run.  NGX_AGAIN: the timer calls `on_next_step`
// for the next one.
ngx_int_t digest_next_step(Context &context, ngx_event_handler_pt on_next_step)
{
    BodyProgress &at = context.body_progress;
    size_t digested = 0;

    for (; at.link != nullptr; at.link = at.link->next, at.offset = 0) {
        ngx_buf_t *b = at.link->buf;

        if (!b->in_file) {
            if (!context.body_digest->update(bytes_in_memory(b))) {
                return NGX_ERROR;
            }

            digested += bytes_in_memory(b).size();
            continue;
        }

        if (at.buffer == nullptr) {
            at.buffer = static_cast<u_char *>(ngx_palloc(context.request->pool, kFileReadSize));

            if (at.buffer == nullptr) {
                return NGX_ERROR;
            }
        }

        while (b->file_pos + at.offset < b->file_last) {
            if (digested >= kDigestStep) {
                start_timer(context, on_next_step, kStepInterval);
                return NGX_AGAIN;
            }

            ssize_t n = digest_file_part(context, b, at.buffer, b->file_pos + at.offset);

            if (n == NGX_ERROR) {
                return NGX_ERROR;
            }

            at.offset += n;
            digested += static_cast<size_t>(n);
        }
    }

    return NGX_OK;
}

// nginx's ngx_event_handler_pt
void on_next_step(ngx_event_t *event)
{
    auto *context = static_cast<Context *>(event->data);
    ngx_http_request_t *r = context->request;
    ngx_connection_t *c = r->connection;

    switch (digest_next_step(*context, on_next_step)) {
    case NGX_AGAIN:
        break;

    case NGX_OK:
        resume(r);
        break;

    default:
        ngx_http_set_log_request(c->log, r);
        ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR);
        ngx_http_run_posted_requests(c);
    }
}

// nginx's ngx_event_handler_pt
void on_next_observed_step(ngx_event_t *event)
{
    auto *context = static_cast<Context *>(event->data);

    if (digest_next_step(*context, on_next_observed_step) == NGX_OK) {
        context->on_body_digested(*context);
    }
}

ngx_int_t digest_read_body(Context &context)
{
    context.body_progress.link = context.request->request_body->bufs;

    switch (digest_next_step(context, on_next_step)) {
    case NGX_OK:
        return claim_key(context);

    case NGX_AGAIN:
        // the stage in which the phases continue with the claim
        context.stage = Stage::reading_body;
        return suspend(context.request);

    default:
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
}

// Whether ngx_http_dav_module handles this PUT (`dav_methods PUT`).  That module is a
// handler of the content phase, so the location has no content handler.
bool is_dav_put(ngx_http_request_t *r)
{
    ngx_int_t index = main_config(r)->dav;

    // the first member of ngx_http_dav_loc_conf_t is the set of methods
    return r->method == NGX_HTTP_PUT && r->content_handler == nullptr && index >= 0
           && (*static_cast<ngx_uint_t *>(r->loc_conf[index]) & NGX_HTTP_PUT) != 0;
}

// Reads the body as ngx_http_dav_handler does: into a file, which that handler then
// moves to its destination.
void read_into_file(ngx_http_request_t *r)
{
    r->request_body_in_file_only = 1;
    r->request_body_in_persistent_file = 1;
    r->request_body_in_clean_file = 1;
    r->request_body_file_group_access = 1;
    r->request_body_file_log_level = 0;
}

// nginx's ngx_http_client_body_handler_pt: resumes the phases, as the mirror module
// does (ngx_http_mirror_body_handler)
void on_body_read(ngx_http_request_t *r)
{
    r->preserve_body = 1;
    r->write_event_handler = ngx_http_core_run_phases;
    ngx_http_core_run_phases(r);
}

}  // namespace

void install_body_digest()
{
    next_request_body_filter = ngx_http_top_request_body_filter;
    ngx_http_top_request_body_filter = on_request_body_part;
}

bool digest_passing_body(Context &context, void (*on_digested)(Context &context))
{
    ngx_http_request_t *r = context.request;

    context.on_body_digested = on_digested;

    if (!start_digest(context)) {
        return false;
    }

    if (r->headers_in.content_length_n <= 0 && !r->headers_in.chunked) {
        on_digested(context);
        return true;
    }

    if (r->request_body == nullptr || r->reading_body) {
        context.observes_body = r->request_body == nullptr;
        return context.observes_body;
    }

    context.body_progress.link = r->request_body->bufs;

    ngx_int_t rc = digest_next_step(context, on_next_observed_step);

    if (rc == NGX_OK) {
        on_digested(context);
    }

    return rc != NGX_ERROR;
}

ngx_int_t read_body(Context &context)
{
    ngx_http_request_t *r = context.request;

    if (!start_digest(context)) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (r->request_body != nullptr) {
        return digest_read_body(context);
    }

    context.stage = Stage::reading_body;

    if (is_dav_put(r)) {
        read_into_file(r);
    }

    ngx_int_t rc = ngx_http_read_client_request_body(r, on_body_read);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    ngx_http_finalize_request(r, NGX_DONE);
    return NGX_DONE;
}

}  // namespace idempotency
