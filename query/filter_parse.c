/*
 * filter_parse.c - a filter's text becomes a tree. See filter.h for the grammar.
 *
 * Recursive descent. Only a parenthesis recurses, and those are limited. `not` is handed down:
 * what it stands before is read with and, or and every term's meaning turned round.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "query/filter_internal.h"

enum {
    SHOWN_BYTES_MAX = 40,   /* of what was found */
    LISTED_BYTES_MAX = 200, /* of the names of columns */
};

enum token_kind {
    TOKEN_END,
    TOKEN_NAME,
    TOKEN_NUMBER, /* what begins like one */
    TOKEN_STRING, /* quotes and escapes and all */
    TOKEN_OPEN,
    TOKEN_CLOSE,
    TOKEN_COMMA,
    TOKEN_EQUAL,
    TOKEN_UNEQUAL,
    TOKEN_LESS,
    TOKEN_LESS_EQUAL,
    TOKEN_GREATER,
    TOKEN_GREATER_EQUAL,
    TOKEN_AND,
    TOKEN_OR,
    TOKEN_NOT,
    TOKEN_IN,
    TOKEN_ANY,
    TOKEN_ALL,
    TOKEN_OTHER, /* one character */
};

struct parser {
    const char *text;
    size_t length;
    struct filter_tree *tree;
    struct error *err;
    /* the token in front */
    enum token_kind kind;
    size_t at, bytes;
    uint32_t depth;
};

/* ---- faults ---- */

static bool is_continuation(char byte)
{
    return ((unsigned char)byte & 0xc0) == 0x80;
}

static enum status fault(const struct parser *parser, size_t at, const char *format, ...)
    PRINTF_LIKE(3, 4);
static enum status fault(const struct parser *parser, size_t at, const char *format, ...)
{
    char line[ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    size_t column = 1;
    for (size_t i = 0; i < at; i++)
        column += !is_continuation(parser->text[i]);
    return error_set(parser->err, STATUS_INVALID, "filter: column %zu: %s", column, line);
}

struct shown {
    char text[SHOWN_BYTES_MAX + 4];
};

/* The token as it stands in the text, cut between characters. */
static struct shown shown(const struct parser *parser)
{
    struct shown result = {"the end"};
    if (parser->kind == TOKEN_END)
        return result;
    const char *text = parser->text + parser->at;
    size_t bytes = MIN(parser->bytes, (size_t)SHOWN_BYTES_MAX);
    while (bytes < parser->bytes && is_continuation(text[bytes]))
        bytes--;
    for (size_t i = 0; i < bytes; i++) {
        const unsigned char byte = (unsigned char)text[i];
        result.text[i] = byte < ' ' || byte == 0x7f ? '?' : text[i];
    }
    snprintf(result.text + bytes, 4, "%s", bytes < parser->bytes ? "..." : "");
    return result;
}

static enum status fault_wanted(const struct parser *parser, const char *wanted)
{
    return fault(parser, parser->at, "%s wanted, got %s", wanted, shown(parser).text);
}

static enum status fault_memory(struct error *err)
{
    return error_set(err, STATUS_NO_MEMORY, "filter: no memory for it");
}

/* ---- tokens ---- */

/* Bytes of the character at text, of which there are `left`; 0: no UTF-8, or a zero byte. */
static size_t character_bytes(const char *text, size_t left)
{
    const unsigned char first = (unsigned char)text[0];
    if (first < 0x80)
        return first != 0;
    const size_t bytes = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || left < bytes)
        return 0;
    for (size_t i = 1; i < bytes; i++)
        if (!is_continuation(text[i]))
            return 0;
    /* Overlong forms, surrogates, beyond U+10FFFF. */
    const unsigned char second = (unsigned char)text[1];
    if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second >= 0xa0) ||
        (first == 0xf0 && second < 0x90) || (first == 0xf4 && second >= 0x90))
        return 0;
    return bytes;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c);
}

static enum token_kind word_kind(const char *word, size_t bytes)
{
    static const struct {
        const char *word;
        enum token_kind kind;
    } words[] = {
        {"and", TOKEN_AND}, {"or", TOKEN_OR},   {"not", TOKEN_NOT},
        {"in", TOKEN_IN},   {"any", TOKEN_ANY}, {"all", TOKEN_ALL},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(words); i++)
        if (strlen(words[i].word) == bytes && strncasecmp(word, words[i].word, bytes) == 0)
            return words[i].kind;
    return TOKEN_NAME;
}

static enum status string_measure(struct parser *parser)
{
    for (size_t i = parser->at + 1; i < parser->length; i++) {
        const char c = parser->text[i];
        if (c == '"') {
            parser->bytes = i + 1 - parser->at;
            return STATUS_OK;
        }
        if (c != '\\')
            continue;
        i++;
        if (i < parser->length && parser->text[i] != '"' && parser->text[i] != '\\')
            return fault(parser, i - 1, "a \\ that is no escape: \\\" and \\\\ are");
    }
    return fault(parser, parser->at, "the string has no end");
}

static enum token_kind sign_kind(char c, bool equals)
{
    switch (c) {
    case '(':
        return TOKEN_OPEN;
    case ')':
        return TOKEN_CLOSE;
    case ',':
        return TOKEN_COMMA;
    case '=':
        return TOKEN_EQUAL;
    case '<':
        return equals ? TOKEN_LESS_EQUAL : TOKEN_LESS;
    case '>':
        return equals ? TOKEN_GREATER_EQUAL : TOKEN_GREATER;
    case '!':
        return equals ? TOKEN_UNEQUAL : TOKEN_OTHER;
    default:
        return TOKEN_OTHER;
    }
}

/* Takes the next token to the front. */
static enum status advance(struct parser *parser)
{
    const char *text = parser->text;
    size_t at = parser->at + parser->bytes;
    while (at < parser->length && (text[at] == ' ' || (text[at] >= '\t' && text[at] <= '\r')))
        at++;
    parser->at = at;
    parser->bytes = 0;
    parser->kind = TOKEN_END;
    if (at == parser->length)
        return STATUS_OK;
    size_t end = at + 1;
    if (is_digit(text[at]) || text[at] == '-') {
        while (end < parser->length && (is_word(text[end]) || text[end] == '.'))
            end++;
        parser->kind = TOKEN_NUMBER;
    } else if (is_word(text[at])) {
        while (end < parser->length && is_word(text[end]))
            end++;
        parser->kind = word_kind(text + at, end - at);
    } else if (text[at] == '"') {
        parser->kind = TOKEN_STRING;
        return string_measure(parser);
    } else {
        const bool equals = end < parser->length && text[end] == '=';
        parser->kind = sign_kind(text[at], equals);
        const bool two = parser->kind == TOKEN_LESS_EQUAL || parser->kind == TOKEN_GREATER_EQUAL ||
                         parser->kind == TOKEN_UNEQUAL;
        end = at + (two ? 2 : character_bytes(text + at, parser->length - at));
    }
    parser->bytes = end - at;
    return STATUS_OK;
}

/* ---- values ---- */

enum status filter_interval_add(struct filter_tree *tree, uint64_t low, uint64_t high,
                                struct error *err)
{
    if (tree->interval_count == tree->interval_capacity) {
        const size_t capacity = 2 * tree->interval_capacity + 64;
        void *grown = realloc(tree->intervals, capacity * sizeof(*tree->intervals));
        if (!grown)
            return fault_memory(err);
        tree->intervals = grown;
        tree->interval_capacity = capacity;
    }
    tree->intervals[tree->interval_count++] = (struct filter_interval){.low = low, .high = high};
    return STATUS_OK;
}

static const char *type_name(const struct attribute_column *column)
{
    switch (column->kind) {
    case ATTRIBUTE_U64:
        return "is u64";
    case ATTRIBUTE_I64:
        return "is i64";
    default:
        return "holds labels";
    }
}

static enum status fault_type(const struct parser *parser, const struct attribute_column *column,
                              const char *wanted)
{
    return fault(parser, parser->at, "%s %s: %s wanted, got %s", column->name, type_name(column),
                 wanted, shown(parser).text);
}

/* -?[0-9]+; *fits: its magnitude is below 2^64. */
static bool digits_read(const char *text, size_t bytes, uint64_t *magnitude, bool *fits)
{
    size_t i = text[0] == '-';
    if (i == bytes)
        return false;
    *magnitude = 0;
    *fits = true;
    for (; i < bytes; i++) {
        if (!is_digit(text[i]))
            return false;
        if (__builtin_mul_overflow(*magnitude, 10, magnitude) ||
            __builtin_add_overflow(*magnitude, (uint64_t)(text[i] - '0'), magnitude))
            *fits = false;
    }
    return true;
}

static enum status number_read(struct parser *parser, const struct attribute_column *column,
                               uint64_t *rank)
{
    const char *text = parser->text + parser->at;
    uint64_t magnitude = 0;
    bool fits = false;
    if (parser->kind != TOKEN_NUMBER)
        return fault_type(parser, column, "a number is");
    if (!digits_read(text, parser->bytes, &magnitude, &fits))
        return fault_type(parser, column, "a whole number is");
    const bool negative = text[0] == '-';
    const uint64_t half = UINT64_C(1) << 63;
    if (column->kind == ATTRIBUTE_U64) {
        if (!fits || (negative && magnitude > 0))
            return fault(parser, parser->at, "%s is u64: %s is not in 0..%" PRIu64, column->name,
                         shown(parser).text, UINT64_MAX);
    } else if (!fits || magnitude > half - !negative) {
        return fault(parser, parser->at, "%s is i64: %s is not in %" PRId64 "..%" PRId64,
                     column->name, shown(parser).text, INT64_MIN, INT64_MAX);
    }
    *rank = attribute_rank(column->kind, negative ? 0 - magnitude : magnitude);
    return advance(parser);
}

/* The number of a label; SORTED_NONE if no vector has it. */
static uint32_t label_find(const struct attribute_column *column, const char *label, size_t bytes)
{
    uint32_t low = 0;
    uint32_t high = column->label_count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const char *text = column->label_text + column->label_at[middle];
        const size_t length = column->label_at[middle + 1] - column->label_at[middle];
        int order = memcmp(text, label, MIN(length, bytes));
        if (order == 0)
            order = (length > bytes) - (length < bytes);
        if (order == 0)
            return column->posting_at[middle] < column->posting_at[middle + 1] ? middle
                                                                               : SORTED_NONE;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return SORTED_NONE;
}

static enum status label_read(struct parser *parser, struct filter_node *node)
{
    if (parser->kind != TOKEN_STRING)
        return fault_type(parser, node->column, "a label in double quotes is");
    const char *text = parser->text + parser->at;
    char label[FILTER_TEXT_MAX];
    size_t bytes = 0;
    for (size_t i = 1; i + 1 < parser->bytes; i++) {
        if (text[i] == '\\')
            i++;
        label[bytes++] = text[i];
    }
    const uint32_t number = label_find(node->column, label, bytes);
    if (number == SORTED_NONE) {
        node->unknown = true;
    } else {
        parser->tree->labels[parser->tree->label_count++] = number;
        node->count++;
    }
    return advance(parser);
}

static enum status value_read(struct parser *parser, struct filter_node *node)
{
    if (node->kind != FILTER_NUMBER)
        return label_read(parser, node);
    uint64_t rank = 0;
    enum status status = number_read(parser, node->column, &rank);
    if (status == STATUS_OK)
        status = filter_interval_add(parser->tree, rank, rank, parser->err);
    node->count++;
    return status;
}

/* ( value, ... ) */
static enum status list_read(struct parser *parser, struct filter_node *node)
{
    enum status status = advance(parser);
    if (status == STATUS_OK && parser->kind != TOKEN_OPEN)
        return fault_type(parser, node->column, "a list in parentheses is");
    for (uint32_t values = 0; status == STATUS_OK; values++) {
        status = advance(parser);
        if (status == STATUS_OK && values == FILTER_VALUES_MAX)
            return fault(parser, parser->at, "more than %d values in a list", FILTER_VALUES_MAX);
        if (status == STATUS_OK)
            status = value_read(parser, node);
        if (status == STATUS_OK && parser->kind == TOKEN_CLOSE)
            return advance(parser);
        if (status == STATUS_OK && parser->kind != TOKEN_COMMA)
            return fault_wanted(parser, "a comma or ) is");
    }
    return status;
}

/* ---- terms ---- */

static enum status number_compare(struct parser *parser, struct filter_node *node)
{
    const enum token_kind sign = parser->kind;
    uint64_t rank = 0;
    enum status status = advance(parser);
    if (status == STATUS_OK)
        status = number_read(parser, node->column, &rank);
    if (status != STATUS_OK)
        return status;
    uint64_t low = rank;
    uint64_t high = rank;
    /* Below and above are the rest of not below and not above: there is no number beside the ends.
     */
    if (sign == TOKEN_LESS || sign == TOKEN_GREATER_EQUAL)
        high = UINT64_MAX;
    else if (sign == TOKEN_GREATER || sign == TOKEN_LESS_EQUAL)
        low = 0;
    if (sign == TOKEN_UNEQUAL || sign == TOKEN_LESS || sign == TOKEN_GREATER)
        node->negated = !node->negated;
    node->count = 1;
    return filter_interval_add(parser->tree, low, high, parser->err);
}

static enum status number_test(struct parser *parser, struct filter_node *node)
{
    node->kind = FILTER_NUMBER;
    node->first = (uint32_t)parser->tree->interval_count;
    if (parser->kind >= TOKEN_EQUAL && parser->kind <= TOKEN_GREATER_EQUAL)
        return number_compare(parser, node);
    if (parser->kind == TOKEN_IN)
        return list_read(parser, node);
    return fault_type(parser, node->column, "=, !=, <, <=, >, >= or in is");
}

static enum status label_test(struct parser *parser, struct filter_node *node)
{
    node->kind = FILTER_ANY;
    node->first = parser->tree->label_count;
    switch (parser->kind) {
    case TOKEN_UNEQUAL:
        node->negated = !node->negated;
        /* fall through */
    case TOKEN_EQUAL: {
        enum status status = advance(parser);
        return status == STATUS_OK ? label_read(parser, node) : status;
    }
    case TOKEN_ALL:
        node->kind = FILTER_ALL;
        /* fall through */
    case TOKEN_IN:
    case TOKEN_ANY:
        return list_read(parser, node);
    default:
        return fault_type(parser, node->column, "=, !=, in, any or all is");
    }
}

static enum status fault_column(const struct parser *parser)
{
    const struct attributes *attributes = parser->tree->attributes;
    char names[LISTED_BYTES_MAX + ATTRIBUTE_NAME_MAX + 8] = "none";
    size_t bytes = 0;
    for (uint32_t i = 0; i < attributes->column_count && bytes < LISTED_BYTES_MAX; i++) {
        bytes += (size_t)snprintf(names + bytes, sizeof(names) - bytes, "%s%s", i ? ", " : "",
                                  attributes->columns[i].name);
        if (bytes >= LISTED_BYTES_MAX && i + 1 < attributes->column_count)
            snprintf(names + bytes, sizeof(names) - bytes, ", ...");
    }
    return fault(parser, parser->at, "unknown column \"%s\" (columns: %s)", shown(parser).text,
                 names);
}

static uint16_t node_add(struct filter_tree *tree, struct filter_node node)
{
    node.child = FILTER_NO_NODE;
    node.next = FILTER_NO_NODE;
    tree->nodes[tree->node_count] = node;
    return (uint16_t)tree->node_count++;
}

static enum status term_read(struct parser *parser, bool negated, uint16_t *out)
{
    if (parser->kind != TOKEN_NAME)
        return fault_wanted(parser, "a column, not or ( is");
    if (parser->tree->term_count == FILTER_TERMS_MAX)
        return fault(parser, parser->at, "more than %d terms", FILTER_TERMS_MAX);
    parser->tree->term_count++;
    struct filter_node node = {.negated = negated};
    node.column =
        attributes_find(parser->tree->attributes, parser->text + parser->at, parser->bytes);
    if (!node.column)
        return fault_column(parser);
    enum status status = advance(parser);
    if (status == STATUS_OK)
        status = node.column->kind == ATTRIBUTE_LABELS ? label_test(parser, &node)
                                                       : number_test(parser, &node);
    if (status == STATUS_OK)
        *out = node_add(parser->tree, node);
    return status;
}

/* ---- groups ---- */

static enum status either_read(struct parser *parser, bool negated, uint16_t *out);

/* one = "not" one | "(" either ")" | term */
static enum status one_read(struct parser *parser, bool negated, uint16_t *out)
{
    enum status status = STATUS_OK;
    while (status == STATUS_OK && parser->kind == TOKEN_NOT) {
        negated = !negated;
        status = advance(parser);
    }
    if (status != STATUS_OK)
        return status;
    if (parser->kind != TOKEN_OPEN)
        return term_read(parser, negated, out);
    if (parser->depth == FILTER_DEPTH_MAX)
        return fault(parser, parser->at, "more than %d parentheses in one another",
                     FILTER_DEPTH_MAX);
    parser->depth++;
    status = advance(parser);
    if (status == STATUS_OK)
        status = either_read(parser, negated, out);
    if (status == STATUS_OK && parser->kind != TOKEN_CLOSE)
        return fault_wanted(parser, "and, or or ) is");
    parser->depth--;
    return status == STATUS_OK ? advance(parser) : status;
}

typedef enum status (*operand_reader)(struct parser *parser, bool negated, uint16_t *out);

/* operand { word operand } */
static enum status group_read(struct parser *parser, bool negated, enum token_kind word,
                              operand_reader read, uint16_t *out)
{
    struct filter_tree *tree = parser->tree;
    uint16_t last = FILTER_NO_NODE;
    enum status status = read(parser, negated, &last);
    *out = last;
    while (status == STATUS_OK && parser->kind == word) {
        if (*out == last) {
            const bool all = (word == TOKEN_AND) != negated;
            *out = node_add(tree, (struct filter_node){.kind = all ? FILTER_AND : FILTER_OR});
            tree->nodes[*out].child = last;
        }
        uint16_t operand = FILTER_NO_NODE;
        status = advance(parser);
        if (status == STATUS_OK)
            status = read(parser, negated, &operand);
        if (status != STATUS_OK)
            return status;
        tree->nodes[last].next = operand;
        last = operand;
    }
    return status;
}

static enum status both_read(struct parser *parser, bool negated, uint16_t *out)
{
    return group_read(parser, negated, TOKEN_AND, one_read, out);
}

static enum status either_read(struct parser *parser, bool negated, uint16_t *out)
{
    return group_read(parser, negated, TOKEN_OR, both_read, out);
}

enum status filter_parse(const char *text, size_t length, struct filter_tree *tree,
                         struct error *err)
{
    struct parser parser = {.text = text, .length = length, .tree = tree, .err = err};
    if (length > FILTER_TEXT_MAX)
        return error_set(err, STATUS_INVALID, "filter: %zu bytes, at most %d are taken", length,
                         FILTER_TEXT_MAX);
    for (size_t i = 0, bytes; i < length; i += bytes) {
        bytes = character_bytes(text + i, length - i);
        if (bytes == 0)
            return fault(&parser, i, "a byte that is no UTF-8 text");
    }
    enum status status = advance(&parser);
    if (status == STATUS_OK)
        status = either_read(&parser, false, &tree->root);
    if (status == STATUS_OK && parser.kind != TOKEN_END)
        return fault_wanted(&parser, "and, or or the end is");
    return status;
}
