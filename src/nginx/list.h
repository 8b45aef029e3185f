// nginx's ngx_list_t for C++.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// The items of a list, for a range-based `for`.  Items may be changed meanwhile, but none added.
template <typename Item>
class ListItems {
public:
    class Iterator {
    public:
        explicit Iterator(const ngx_list_part_t *part) : part_(part) { skip_empty_parts(); }

        Item &operator*() const { return static_cast<Item *>(part_->elts)[index_]; }

        Iterator &operator++()
        {
            index_++;
            skip_empty_parts();
            return *this;
        }

        bool operator!=(const Iterator &other) const
        {
            return part_ != other.part_ || index_ != other.index_;
        }

    private:
        void skip_empty_parts()
        {
            while (part_ != nullptr && index_ == part_->nelts) {
                part_ = part_->next;
                index_ = 0;
            }
        }

        const ngx_list_part_t *part_;
        ngx_uint_t index_ = 0;
    };

    explicit ListItems(const ngx_list_t &list) : list_(list) {}

    Iterator begin() const { return Iterator(&list_.part); }
    Iterator end() const { return Iterator(nullptr); }

private:
    const ngx_list_t &list_;
};

// The header fields of a request or a response.  Those with `hash` 0 are removed.
using HeaderFields = ListItems<ngx_table_elt_t>;

// The first field with this name, or null.
inline ngx_table_elt_t *find_field(const ngx_list_t &list, std::string_view name)
{
    for (ngx_table_elt_t &field : HeaderFields(list)) {
        if (field.hash != 0 && equal_ignoring_case(view(field.key), name)) {
            return &field;
        }
    }

    return nullptr;
}

// Whether a request header has this name, which is in lower case.
inline bool has_name(const ngx_table_elt_t &field, std::string_view name)
{
    return field.hash != 0 && field.key.len == name.size()
           && ngx_memcmp(field.lowcase_key, name.data(), name.size()) == 0;
}

}  // namespace idempotency
