// A response that is observed: digests of its header fields and of its body, by which it is
// compared with the response to another request.  The store gets the digests only.

#pragma once

#include "nginx/nginx.h"

#include "core/digest.h"
#include "core/store.h"
#include "http/answer/fields.h"

namespace idempotency {

// What is different between two responses.
struct Difference {
    bool status = false;
    bool fields = false;
    bool body = false;
    char names[256];  // of the fields that are different, with commas
    std::size_t names_length = 0;

    bool any() const { return status || fields || body; }
};

struct ObservedField {
    std::string_view name;
    char digest[16];  // of the value, the first digits in hexadecimal
    unsigned char flags;

    std::string_view value() const { return {digest, sizeof(digest)}; }
};

class ObservedResponse final : public FieldVisitor {
public:
    // All memory comes from `pool`, which outlives this object.
    ObservedResponse(ngx_pool_t *pool, const EVP_MD *method);

    // The header of the response, as the application has sent it.
    void read_head(ngx_http_request_t *r, const LocationConfig &conf);

    // A part of the body, in memory or in a file.
    void read_body(ngx_buf_t *b, std::size_t max_body);

    // The response is complete.
    void read_end(ngx_http_request_t *r, const LocationConfig &conf);

    std::uint64_t body_size() const { return body_size_; }
    unsigned status() const { return status_; }

    // Its body is longer than `idempotency_max_body`, so it was not digested to its end.
    bool is_too_large() const { return is_too_large_; }

    // Something could not be digested: no memory, or a file that can't be read.
    bool has_failed() const { return has_failed_; }

    // The record of the response, in memory of the pool.  False if there is no memory, or if the
    // fields don't fit into a record.
    bool write_record(const RecordHead &head, const KeyId &id, Pieces &record);

    // The record of a response that was not seen to its end: nothing is compared with it.
    bool write_unseen(const RecordHead &head, const KeyId &id, Pieces &record);

    static bool is_unseen(const Record &kept) { return kept.body.empty(); }

    // With one that was kept before.  The order of fields with different names does not count.
    // False if it can't be compared.
    bool compare(const Record &kept, Difference &difference) const;

    void add(const Header &header) override;

private:
    void digest_body(std::string_view bytes, std::size_t max_body);
    void digest_file(ngx_buf_t *b, std::size_t max_body);
    bool write(const RecordHead &head, const KeyId &id, std::string_view body, Pieces &record);
    const ObservedField *fields() const { return static_cast<const ObservedField *>(fields_.elts); }

    ngx_pool_t *pool_;
    const LocationConfig *conf_ = nullptr;
    Sha256 sha_;
    ngx_array_t fields_{};  // of ObservedField
    unsigned status_ = 0;
    std::uint64_t body_size_ = 0;
    Digest body_{};
    bool is_too_large_ = false;
    bool has_failed_ = false;
    std::string_view pieces_[2];
};

}  // namespace idempotency
