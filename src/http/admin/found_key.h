// What the store has under a key, as the admin page shows it.

#pragma once

#include "core/record.h"
#include "http/admin/text.h"

namespace idempotency {

struct FoundKey {
    KeyId id{};     // of the key, not its stored id
    Record record;  // unless it is unreadable
    Millis remaining = 0;
    std::size_t size = 0;         // of the value
    const char *fault = nullptr;  // why the value can't be read; null: it can

    // The lease of a claim has expired, so its outcome is unknown.
    bool has_lease_expired() const
    {
        return fault == nullptr && record.head.state == State::running && record.head.hold > 0
               && remaining <= record.head.hold;
    }

    bool is_unknown() const
    {
        return fault == nullptr && (record.head.state == State::unknown || has_lease_expired());
    }

    bool is_finished() const
    {
        return fault == nullptr
               && (record.head.state == State::kept || record.head.state == State::not_kept);
    }

    const char *state_name() const;
};

// Writes the members of the JSON object.  `now`: Unix time in milliseconds.
void write_found_key(JsonText &text, const FoundKey &key, Millis now);

// The member `answer`: the kept response.
void write_answer(JsonText &text, const Record &record);

}  // namespace idempotency
