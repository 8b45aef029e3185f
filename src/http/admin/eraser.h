// The walk of an erasure through a store.

#pragma once

#include "http/admin/asker.h"
#include "http/admin/question.h"
#include "nginx/erasure_segment.h"

namespace idempotency {

// An object of its own pool.  It destroys itself at its end.
class Erasure {
public:
    // Null if there is no memory.
    static Erasure *create(ngx_http_request_t *r, const AdminQuestion &question);

    ErasureProgress progress{};

    void start();
    void destroy() { ngx_destroy_pool(pool_); }
    void log(const char *what) const;

    // The worker exits, or the store was unavailable for too long.
    void end(ErasureState state);

    struct Member {
        ngx_queue_t link;
        Erasure *erasure;
    };

    static ngx_queue_t running;  // of Member; those of this worker

    // Identifies a store in ErasureProgress.
    static std::uint64_t hash_of(const ngx_str_t &name);

private:
    // How many records are looked at at the same time.
    static constexpr ngx_uint_t kLookups = 16;

    // A record that is looked at.
    struct Lookup : Call {
        Erasure *erasure = nullptr;
        char *buffer = nullptr;
        std::size_t capacity = 0;
        bool is_busy = false;
        bool is_oversized = false;
        KeyId stored_id{};
        char seen_bytes[1 + sizeof(ClaimId)];
    };

    struct Step : WalkStep {
        Erasure *erasure = nullptr;
    };

    Erasure(ngx_pool_t *pool, ngx_http_request_t *r, const AdminQuestion &question)
        : pool_(pool), slot_(question.slot), digester_(main_config(r)->digester),
          segment_(main_config(r)->erasures), asker_(r)
    {}

    bool copy_scope(const Scope &scope);

    static void on_timer(ngx_event_t *event);
    static void on_found(WalkStep &step, const KeyId &stored_id);
    static void on_step_ended(WalkStep &step);
    static char *on_allocate(Call &call, std::size_t size);
    static void on_lookup_ended(Call &call);

    void pause(ngx_msec_t delay);
    void make_step();
    void handle_step();
    void look_up_some();
    bool begin_lookup(Lookup &lookup);
    bool handle_reply(Lookup &lookup);
    bool handle_record(Lookup &lookup);
    bool is_of_scope(const Record &record, const KeyId &id);
    void go_on();
    void log_forgotten(const Lookup &lookup) const;

    ngx_pool_t *pool_;
    StoreSlot *slot_;
    Digester *digester_;
    ErasureSegment *segment_;
    Asker asker_;
    Scope scope_{};
    Member member_{};
    ngx_event_t timer_{};
    Step step_;
    KeyId *ids_ = nullptr;  // of the step
    std::size_t id_count_ = 0, id_capacity_ = 0, next_id_ = 0;
    Lookup lookups_[kLookups];
    ngx_uint_t busy_ = 0;
    bool failed_ = false;  // in this walk
    bool is_stepping_ = false;
    bool is_looking_ = false;
    bool has_ended_ = false;
};

}  // namespace idempotency
