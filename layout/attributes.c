/*
 * attributes.c - see attributes.h.
 */
#include "layout/attributes.h"

const struct attribute_column *attributes_find(const struct attributes *attributes,
                                               const char *name, size_t length)
{
    for (uint32_t i = 0; i < attributes->column_count; i++) {
        const struct attribute_column *column = &attributes->columns[i];
        if (strlen(column->name) == length && memcmp(column->name, name, length) == 0)
            return column;
    }
    return NULL;
}
