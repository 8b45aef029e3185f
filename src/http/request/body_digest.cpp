#include <new>

#include "http/request/body_digest.h"

#include "http/request/claim.h"

namespace idempotency {

namespace {

ngx_http_request_body_filter_pt next_request_body_filter;

constexpr size_t kFileReadSize = 64 * 1024;  // bytes

void destroy_digest(void *data) { static_cast<Sha256 *>(data)->~Sha256(); }

bool start_digest(Context &context)
{
    ngx_http_request_t *r = context.request;
    ngx_pool_cleanup_t *cleanup = ngx_pool_cleanup_add(r->pool, sizeof(Sha256));

    if (cleanup == nullptr) {
        return false;
    }

    context.body_digest = new (cleanup->data) Sha256(main_config(r)->digester->method());
    cleanup->handler = destroy_digest;
    return context.body_digest->restart();
}

std::string_view bytes_in_memory(const ngx_buf_t *b)
{
    return {reinterpret_cast<const char *>(b->pos), static_cast<size_t>(b->last - b->pos)};
}

// nginx's ngx_http_request_body_filter_pt
ngx_int_t on_request_body_part(ngx_http_request_t *r, ngx_chain_t *in)
{
    auto *context = static_cast<Context *>(ngx_http_get_module_ctx(r, ngx_http_idempotency_module));

    if (context != nullptr && context->stage == Stage::reading_body) {
        for (ngx_chain_t *link = in; link != nullptr; link = link->next) {
            if (!context->body_digest->update(bytes_in_memory(link->buf))) {
                return NGX_HTTP_INTERNAL_SERVER_ERROR;
            }
        }
    }

    return next_request_body_filter(r, in);
}

bool digest_file(Context &context, const ngx_buf_t *b)
{
    auto *buffer = static_cast<u_char *>(ngx_palloc(context.request->pool, kFileReadSize));

    if (buffer == nullptr) {
        return false;
    }

    for (off_t offset = b->file_pos; offset < b->file_last;) {
        size_t size = static_cast<size_t>(ngx_min(b->file_last - offset, off_t(kFileReadSize)));
        ssize_t n = ngx_read_file(b->file, buffer, size, offset);

        if (n <= 0
            || !context.body_digest->update(
                {reinterpret_cast<char *>(buffer), static_cast<size_t>(n)}))
        {
            return false;
        }

        offset += n;
    }

    return true;
}

// Another module has read the body before, so the body filter does not see it.
bool digest_buffered_body(Context &context)
{
    for (ngx_chain_t *link = context.request->request_body->bufs; link != nullptr;
         link = link->next) {
        bool digested = link->buf->in_file
                            ? digest_file(context, link->buf)
                            : context.body_digest->update(bytes_in_memory(link->buf));

        if (!digested) {
            return false;
        }
    }

    return true;
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

ngx_int_t read_body(Context &context)
{
    ngx_http_request_t *r = context.request;

    if (!start_digest(context)) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (r->request_body != nullptr) {
        return digest_buffered_body(context) ? claim_key(context) : NGX_HTTP_INTERNAL_SERVER_ERROR;
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
