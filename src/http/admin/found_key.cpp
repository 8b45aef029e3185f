#include "http/admin/found_key.h"

namespace idempotency {

const char *FoundKey::state_name() const
{
    if (fault != nullptr) {
        return "unreadable";
    }

    switch (record.head.state) {
    case State::running:
        return has_lease_expired() ? "unknown" : "running";
    case State::unknown:
        return "unknown";
    case State::kept:
        return "kept";
    case State::not_kept:
        return "not_kept";
    case State::freed:
        break;
    }

    return "freed";
}

namespace {

void write_claim_id(JsonText &text, const ClaimId &claim)
{
    u_char hex[2 * sizeof(ClaimId)];

    ngx_hex_dump(hex, const_cast<u_char *>(claim.bytes.data()), claim.bytes.size());
    text.put_member("claim", std::string_view(reinterpret_cast<char *>(hex), sizeof(hex)));
}

void write_holder(JsonText &text, const Record &record)
{
    if (record.holder.host.empty() && record.holder.worker == 0) {
        return;
    }

    text.put_name("holder");
    text.put("{");
    text.put_member("host", record.holder.host);
    text.put_member("worker", record.holder.worker);
    text.put("}");
}

}  // namespace

// A token is the time of the claim in microseconds, by the store's clock.
void write_found_key(JsonText &text, const FoundKey &key, Millis now)
{
    const RecordHead &head = key.record.head;

    text.put_member("state", key.state_name());

    if (key.fault != nullptr) {
        text.put_member("fault", key.fault);

    } else {
        text.put_seconds_member("claimed", head.token / 1000);

        if (head.state != State::running) {
            text.put_seconds_member("since", head.since);
        } else if (!key.has_lease_expired()) {
            text.put_seconds_member("lease_left", key.remaining - head.hold);
        } else {
            text.put_name("lease_expired");
            text.put("true");
        }

        text.put_member("token", head.token);
        write_claim_id(text, head.claim);
        write_holder(text, key.record);
    }

    text.put_seconds_member("time_left", key.remaining);
    text.put_seconds_member("expires", now + key.remaining);

    if (key.fault == nullptr && head.state == State::kept) {
        text.put_member("status", key.record.status);
    }

    text.put_name("sizes");
    text.put("{");
    text.put_member("record", key.size);

    if (key.fault == nullptr && head.state == State::kept) {
        text.put_member("headers", key.record.header_count);
        text.put_member("body", key.record.body.size());
    }

    text.put("}");
}

void write_answer(JsonText &text, const Record &record)
{
    HeaderCursor cursor(record.fields);
    Header header;
    bool is_first = true;

    text.put_name("answer");
    text.put("{");
    text.put_member("status", record.status);
    text.put_member("status_line", record.status_line);
    text.put_name("headers");
    text.put("[");

    while (cursor.next(header)) {
        text.put(is_first ? "{" : ",{");
        text.put_member("name", header.name);
        text.put_member("value", header.value);

        if ((header.flags & kTrailer) != 0) {
            text.put_name("trailer");
            text.put("true");
        }

        text.put("}");
        is_first = false;
    }

    text.put("]");
    text.put_name("body_base64");
    text.put_base64(record.body);
    text.put("}");
}

}  // namespace idempotency
