#include <cstring>

#include "core/record.h"
#include "core/record_layout.h"
#include "core/wire.h"

namespace idempotency {

using namespace record_layout;

namespace {

// memcpy must not get the null pointer of an empty view.
unsigned char *append(unsigned char *out, std::string_view bytes)
{
    if (!bytes.empty()) {
        std::memcpy(out, bytes.data(), bytes.size());
    }

    return out + bytes.size();
}

}  // namespace

bool can_hold(const Header &header)
{
    return !header.name.empty() && header.name.size() <= kLongestName
           && header.name.find(':') == std::string_view::npos && is_one_line(header.name)
           && is_one_line(header.value) && (header.flags & ~kHeaderFlags) == 0;
}

ResponseSizer::ResponseSizer(unsigned status, std::string_view status_line)
    : fits_(can_hold_status(status, status_line)),
      size_(kExtensionHeadSize + kResponseHead + status_line.size())
{}

void ResponseSizer::add(const Header &header)
{
    std::size_t added = kHeaderHead + header.name.size() + header.value.size();

    if (!fits_ || !can_hold(header) || count_ == kMostHeaders || added > kLargestResponse - size_) {
        fits_ = false;
        return;
    }

    count_++;
    size_ += added;
}

RecordWriter::RecordWriter(unsigned char *out, const RecordHead &head)
    : out_(out), next_(out + kRecordHeadSize)
{
    HeadEncoder encoder{out};

    std::memset(out, 0, kRecordHeadSize);
    std::memcpy(out, kRecordMagic, sizeof(kRecordMagic));
    out[kVersionOffset] = kPlainVersion;
    out[kFlagsOffset] = head.tells_hold ? kTellsHold : 0;
    out[kStateOffset] = static_cast<unsigned char>(head.state);
    code_head(encoder, head);
}

unsigned char *RecordWriter::start_extension(ExtensionType type)
{
    wire::put_u16(next_, static_cast<std::uint16_t>(type));
    return next_ + kExtensionHeadSize;
}

void RecordWriter::add_holder(const Holder &holder)
{
    std::string_view host = holder.host.substr(0, kLongestHost);
    unsigned char *data = start_extension(ExtensionType::holder);

    wire::put_u32(next_ + 2, static_cast<std::uint32_t>(kHolderHead + host.size()));
    wire::put_u32(data, holder.worker);
    next_ = append(data + kHolderHead, host);
}

void RecordWriter::start_response(std::uint16_t status, std::string_view status_line)
{
    response_ = start_extension(ExtensionType::response);
    wire::put_u16(response_, status);
    wire::put_u16(response_ + 4, static_cast<std::uint16_t>(status_line.size()));
    next_ = append(response_ + kResponseHead, status_line);
}

void RecordWriter::add(const Header &header)
{
    next_[0] = header.flags;
    wire::put_u16(next_ + 1, static_cast<std::uint16_t>(header.name.size()));
    wire::put_u32(next_ + 3, static_cast<std::uint32_t>(header.value.size()));
    next_ = append(append(next_ + kHeaderHead, header.name), header.value);
    count_++;
}

void RecordWriter::finish_response()
{
    if (response_ != nullptr) {
        wire::put_u16(response_ + 2, count_);
        wire::put_u32(response_ - 4, static_cast<std::uint32_t>(next_ - response_));
        response_ = nullptr;
    }
}

void RecordWriter::add_hops(std::string_view hops)
{
    if (hops.empty()) {
        return;
    }

    finish_response();

    unsigned char *data = start_extension(ExtensionType::hops);

    wire::put_u32(data - 4, static_cast<std::uint32_t>(hops.size()));
    next_ = append(data, hops);
}

void RecordWriter::add_scope_tag(std::string_view tag)
{
    if (tag.empty()) {
        return;
    }

    finish_response();

    unsigned char *data = start_extension(ExtensionType::scope_tag);

    wire::put_u32(data - 4, static_cast<std::uint32_t>(tag.size()));
    next_ = append(data, tag);
}

void RecordWriter::add_body(std::string_view piece)
{
    body_checksum_ = checksum(body_checksum_, wire::octets(piece), piece.size());
    body_length_ += static_cast<std::uint32_t>(piece.size());
}

void RecordWriter::finish(const KeyId &id)
{
    std::size_t extensions = size() - kRecordHeadSize;

    finish_response();
    wire::put_u32(out_ + kExtensionsOffset, static_cast<std::uint32_t>(extensions));
    wire::put_u32(out_ + kBodyOffset, body_length_);
    wire::put_u32(out_ + kChecksumOffset, whole_checksum(body_checksum_, out_, extensions, id));
}

}  // namespace idempotency
