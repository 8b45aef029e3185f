#include "http/admin/erasure.h"

#include "http/admin/eraser.h"

namespace idempotency {

namespace {

constexpr AdminProblem kRunning = {
    NGX_HTTP_CONFLICT, "erasure_running",
    "An erasure of this store is running, or 32 of others: try again when it has ended."};
constexpr AdminProblem kNotFound = {
    NGX_HTTP_NOT_FOUND, "erasure_not_found",
    "There is no erasure with this id: nginx remembers the last 32 since it was started."};

void write_progress(JsonText &text, const StoreSlot &slot, const ErasureProgress &progress)
{
    static constexpr const char *states[] = {"", "running", "done", "failed", "interrupted"};
    u_char id[16];
    u_char *end = ngx_sprintf(id, "%015xL", static_cast<uint64_t>(progress.id));

    text.put("{");
    text.put_utf8_member("store", view(slot.name));
    text.put_member("erasure", std::string_view(reinterpret_cast<char *>(id),
                                                static_cast<std::size_t>(end - id)));
    text.put_member("state", states[static_cast<std::size_t>(progress.state)]);
    text.put_seconds_member("started", progress.started);
    text.put_seconds_member("updated", progress.updated);
    text.put_member("examined", progress.examined);
    text.put_member("forgotten", progress.forgotten);
    text.put_member("unknown", progress.unknown);
    text.put_member("unreadable", progress.unreadable);
    text.put_member("restarts", progress.restarts);
}

}  // namespace

ngx_int_t start_erasure(ngx_http_request_t *r, const AdminQuestion &question)
{
    Erasure *erasure = Erasure::create(r, question);
    JsonText text(r->pool);

    if (erasure == nullptr) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (!main_config(r)->erasures->add(erasure->progress)) {
        erasure->destroy();
        return send_admin_problem(r, kRunning);
    }

    erasure->log("has begun");
    erasure->start();
    write_progress(text, *question.slot, erasure->progress);
    return send_admin_json(r, NGX_HTTP_ACCEPTED, text);
}

ngx_int_t show_erasure(ngx_http_request_t *r, const AdminQuestion &question)
{
    ErasureProgress progress;
    JsonText text(r->pool);

    if (!main_config(r)->erasures->find(question.erasure, progress)
        || progress.store != Erasure::hash_of(question.slot->name))
    {
        return send_admin_problem(r, kNotFound);
    }

    write_progress(text, *question.slot, progress);
    return send_admin_json(r, NGX_HTTP_OK, text);
}

void stop_erasures()
{
    ngx_queue_t *next;

    for (ngx_queue_t *q = ngx_queue_head(&Erasure::running);
         q != ngx_queue_sentinel(&Erasure::running); q = next)
    {
        next = ngx_queue_next(q);
        (ngx_queue_data(q, Erasure::Member, link))->erasure->end(ErasureState::interrupted);
    }
}

}  // namespace idempotency
