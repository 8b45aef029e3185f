// Complete records, as a request or its end makes them.

#pragma once

#include <string>

#include "core/record.h"

namespace idempotency {

inline std::string record_of(const KeyId &id, State state, Token token, const std::string &body = "",
                             unsigned char fingerprint = 0, const std::string &status_line = "")
{
    unsigned char out[256];
    RecordHead head;

    head.state = state;
    head.token = token;
    head.fingerprint.bytes.fill(fingerprint);

    RecordWriter writer(out, head);

    if (state == State::kept) {
        writer.start_result(200, status_line);
        writer.add_body(body);
    }

    writer.finish(id);
    return std::string(reinterpret_cast<char *>(out), writer.size()) + body;
}

// The record of a claim without a fingerprint.
inline std::string claim_record_of(const KeyId &id) { return record_of(id, RecordHead().state, RecordHead().token); }

}  // namespace idempotency
