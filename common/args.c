/*
 * args.c - a table of options turned into getopt_long()'s, values checked, help generated.
 *
 * getopt_long keeps its position in globals, so parsing is for main's thread; optind = 0 makes
 * glibc start afresh, which lets a program (and the tests) parse more than once.
 */
#include "common/args.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "common/version.h"

enum {
    CODE_HELP = 1000, /* above any character and any CODE_OPTION + index */
    CODE_VERSION,
    CODE_OPTION = 256,
    HELP_COLUMN = 28,
    HELP_WIDTH = 80,
    NAME_BYTES = 64,
};

struct option_tables {
    struct option longs[ARGS_OPTIONS_MAX + 3];
    char shorts[2 * ARGS_OPTIONS_MAX + 4];
};

/* Leading ':' in shorts: a missing value is told apart from an unknown option, and nothing printed.
 */
static void fill_tables(const struct args_spec *spec, struct option_tables *tables)
{
    size_t longs = 0, shorts = 0;
    tables->shorts[shorts++] = ':';
    tables->shorts[shorts++] = 'h';
    for (size_t i = 0; i < spec->option_count; i++) {
        const struct args_option *option = &spec->options[i];
        bool has_value = option->kind != ARGS_FLAG;
        if (option->name)
            tables->longs[longs++] =
                (struct option){option->name, has_value ? required_argument : no_argument, NULL,
                                CODE_OPTION + (int)i};
        if (option->short_name) {
            tables->shorts[shorts++] = option->short_name;
            if (has_value)
                tables->shorts[shorts++] = ':';
        }
    }
    tables->shorts[shorts] = '\0';
    tables->longs[longs++] = (struct option){"help", no_argument, NULL, CODE_HELP};
    tables->longs[longs++] = (struct option){"version", no_argument, NULL, CODE_VERSION};
    tables->longs[longs] = (struct option){0};
}

/* The option a getopt_long code stands for; NULL if none. */
static const struct args_option *option_of(const struct args_spec *spec, int code)
{
    if (code >= CODE_OPTION && (size_t)(code - CODE_OPTION) < spec->option_count)
        return &spec->options[code - CODE_OPTION];
    for (size_t i = 0; i < spec->option_count; i++)
        if (spec->options[i].short_name && spec->options[i].short_name == code)
            return &spec->options[i];
    return NULL;
}

static void name_of(const struct args_option *option, char name[NAME_BYTES])
{
    if (option->name)
        snprintf(name, NAME_BYTES, "--%s", option->name);
    else
        snprintf(name, NAME_BYTES, "-%c", option->short_name);
}

/* `limit_max` is what the target's type holds. */
static enum status parse_integer(const struct args_option *option, const char *text,
                                 uint64_t limit_max, uint64_t *value, struct error *err)
{
    char name[NAME_BYTES];
    name_of(option, name);
    /* strtoull takes spaces and signs, which a count has not. */
    size_t digits = strspn(text, "0123456789");
    size_t zeros = text[digits] == 'e' ? strspn(text + digits + 1, "0123456789") : 0;
    if (digits == 0 || text[digits + (zeros > 0 ? zeros + 1 : 0)] != '\0')
        return error_set(err, STATUS_INVALID, "%s: '%.100s' is not a whole number", name, text);
    errno = 0;
    uint64_t number = strtoull(text, NULL, 10);
    bool overflow = errno == ERANGE;
    uint64_t exponent = zeros > 0 ? strtoull(text + digits + 1, NULL, 10) : 0; /* 1e9 */
    for (uint64_t i = 0; number > 0 && !overflow && i < exponent; i++)
        overflow = __builtin_mul_overflow(number, 10, &number);
    uint64_t max = option->max > 0 ? MIN((uint64_t)option->max, limit_max) : limit_max;
    uint64_t min = option->min > 0 ? (uint64_t)option->min : 0;
    if (overflow || number > max)
        return error_set(err, STATUS_INVALID, "%s: %.100s is above the maximum %" PRIu64, name,
                         text, max);
    if (number < min)
        return error_set(err, STATUS_INVALID, "%s: %.100s is below the minimum %" PRIu64, name,
                         text, min);
    *value = number;
    return STATUS_OK;
}

static enum status parse_double(const struct args_option *option, const char *text, double *value,
                                struct error *err)
{
    char name[NAME_BYTES];
    name_of(option, name);
    /* Keeps out what strtod takes beside decimals: spaces, hexadecimal, "inf", "nan". */
    bool decimal = text[0] != '\0' && text[strspn(text, "0123456789.eE+-")] == '\0';
    char *end = NULL;
    double number = decimal ? strtod(text, &end) : 0;
    if (!decimal || *end != '\0' || !isfinite(number))
        return error_set(err, STATUS_INVALID, "%s: '%.100s' is not a decimal number", name, text);
    if (option->max != 0 && number > option->max)
        return error_set(err, STATUS_INVALID, "%s: %.100s is above the maximum %g", name, text,
                         option->max);
    if (number < option->min)
        return error_set(err, STATUS_INVALID, "%s: %.100s is below the minimum %g", name, text,
                         option->min);
    *value = number;
    return STATUS_OK;
}

static enum status parse_memory(const struct args_option *option, const char *text, uint64_t *value,
                                struct error *err)
{
    char name[NAME_BYTES];
    struct error why;
    uint64_t bytes;
    name_of(option, name);
    enum status status = memory_parse(text, &bytes, &why);
    if (status != STATUS_OK)
        return error_set(err, status, "%s: %s", name, why.text);
    if (option->max > 0 && (double)bytes > option->max)
        return error_set(err, STATUS_INVALID, "%s: %.100s is above the maximum %.0f bytes", name,
                         text, option->max);
    if ((double)bytes < option->min)
        return error_set(err, STATUS_INVALID, "%s: %.100s is below the minimum %.0f bytes", name,
                         text, option->min);
    *value = bytes;
    return STATUS_OK;
}

static enum status parse_list(const struct args_option *option, const char *text,
                              struct args_u32_list *list, struct error *err)
{
    char name[NAME_BYTES];
    struct args_u32_list parsed = {.count = 0};
    name_of(option, name);
    for (const char *item = text;; item++) {
        char word[32];
        size_t length = strcspn(item, ",");
        if (length >= sizeof(word))
            return error_set(err, STATUS_INVALID, "%s: '%.100s' is not a whole number", name, item);
        if (parsed.count == ARGS_LIST_MAX)
            return error_set(err, STATUS_INVALID, "%s: more than %d numbers", name, ARGS_LIST_MAX);
        memcpy(word, item, length);
        word[length] = '\0';
        uint64_t value;
        enum status status = parse_integer(option, word, UINT32_MAX, &value, err);
        if (status != STATUS_OK)
            return status;
        parsed.items[parsed.count++] = (uint32_t)value;
        item += length;
        if (*item == '\0')
            break;
    }
    *list = parsed;
    return STATUS_OK;
}

static bool is_choice(const char *choices, const char *text)
{
    size_t length = strlen(text);
    for (const char *word = choices; word; word = strchr(word, '|')) {
        if (*word == '|')
            word++;
        if (strcspn(word, "|") == length && strncmp(word, text, length) == 0)
            return true;
    }
    return false;
}

static enum status parse_string(const struct args_option *option, const char *text,
                                const char **value, struct error *err)
{
    char name[NAME_BYTES];
    name_of(option, name);
    if (text[0] == '\0')
        return error_set(err, STATUS_INVALID, "%s: the value is empty", name);
    if (option->choices && !is_choice(option->choices, text))
        return error_set(err, STATUS_INVALID, "%s: '%.100s' is none of %s", name, text,
                         option->choices);
    *value = text;
    return STATUS_OK;
}

static enum status store(const struct args_option *option, const char *text, struct error *err)
{
    enum status status = STATUS_OK;
    uint64_t number;
    switch (option->kind) {
    case ARGS_FLAG:
        *(bool *)option->target = true;
        break;
    case ARGS_STRING:
        status = parse_string(option, text, option->target, err);
        break;
    case ARGS_U32:
        status = parse_integer(option, text, UINT32_MAX, &number, err);
        if (status == STATUS_OK)
            *(uint32_t *)option->target = (uint32_t)number;
        break;
    case ARGS_U64:
        status = parse_integer(option, text, UINT64_MAX, option->target, err);
        break;
    case ARGS_DOUBLE:
        status = parse_double(option, text, option->target, err);
        break;
    case ARGS_MEMORY:
        status = parse_memory(option, text, option->target, err);
        break;
    case ARGS_U32_LIST:
        status = parse_list(option, text, option->target, err);
        break;
    }
    if (status == STATUS_OK && option->given)
        *option->given = true;
    return status;
}

/* ---- help ---- */

static const char *value_name_of(const struct args_option *option)
{
    if (option->value_name)
        return option->value_name;
    switch (option->kind) {
    case ARGS_STRING:
        return option->choices ? option->choices : "TEXT";
    case ARGS_MEMORY:
        return "BYTES";
    case ARGS_U32_LIST:
        return "N,N,...";
    default:
        return "N";
    }
}

static void memory_words(uint64_t bytes, char *text, size_t room)
{
    static const char units[] = "TGMK";
    for (unsigned i = 0; i < 4; i++) {
        uint64_t unit = UINT64_C(1) << (40 - 10 * i);
        if (bytes >= unit && bytes % unit == 0) {
            snprintf(text, room, "%" PRIu64 "%c", bytes / unit, units[i]);
            return;
        }
    }
    snprintf(text, room, "%" PRIu64, bytes);
}

static void list_words(const struct args_u32_list *list, char *text, size_t room)
{
    size_t used = 0;
    for (uint32_t i = 0; i < list->count && used < room; i++) {
        int more =
            snprintf(text + used, room - used, "%s%" PRIu32, i > 0 ? "," : "", list->items[i]);
        used += more > 0 ? (size_t)more : 0;
    }
}

/* "64", or "" when the target holds nothing worth showing. */
static void default_words(const struct args_option *option, char *text, size_t room)
{
    const void *target = option->target;
    text[0] = '\0';
    if (option->kind == ARGS_STRING && *(const char *const *)target)
        snprintf(text, room, "%s", *(const char *const *)target);
    else if (option->kind == ARGS_U32 && *(const uint32_t *)target)
        snprintf(text, room, "%" PRIu32, *(const uint32_t *)target);
    else if (option->kind == ARGS_U64 && *(const uint64_t *)target)
        snprintf(text, room, "%" PRIu64, *(const uint64_t *)target);
    else if (option->kind == ARGS_DOUBLE && *(const double *)target != 0)
        snprintf(text, room, "%g", *(const double *)target);
    else if (option->kind == ARGS_MEMORY && *(const uint64_t *)target)
        memory_words(*(const uint64_t *)target, text, room);
    else if (option->kind == ARGS_U32_LIST)
        list_words(target, text, room);
}

/* Prints `text` from HELP_COLUMN on, broken at spaces; the cursor is at `column`. */
static void print_wrapped(const char *text, int column)
{
    if (column >= HELP_COLUMN) {
        putchar('\n');
        column = 0;
    }
    printf("%*s", HELP_COLUMN - column, "");
    column = HELP_COLUMN;
    while (*text) {
        int length = (int)strcspn(text, " ");
        if (column > HELP_COLUMN && column + 1 + length > HELP_WIDTH) {
            printf("\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        } else if (column > HELP_COLUMN) {
            putchar(' ');
            column++;
        }
        printf("%.*s", length, text);
        column += length;
        text += length;
        text += strspn(text, " ");
    }
    putchar('\n');
}

static void print_option(const struct args_option *option)
{
    char head[128], tail[96] = "", initial[64], text[640];
    const char *value = option->kind == ARGS_FLAG ? "" : value_name_of(option);
    const char *space = option->kind == ARGS_FLAG ? "" : " ";
    if (option->name && option->short_name)
        snprintf(head, sizeof(head), "  -%c, --%s%s%s", option->short_name, option->name, space,
                 value);
    else if (option->name)
        snprintf(head, sizeof(head), "  --%s%s%s", option->name, space, value);
    else
        snprintf(head, sizeof(head), "  -%c%s%s", option->short_name, space, value);
    default_words(option, initial, sizeof(initial));
    if (option->required)
        snprintf(tail, sizeof(tail), " (required)");
    else if (initial[0])
        snprintf(tail, sizeof(tail), " (default %s)", initial);
    snprintf(text, sizeof(text), "%.512s%s", option->help, tail);
    print_wrapped(text, printf("%s ", head));
}

static void print_help(const struct args_spec *spec)
{
    printf("Usage: %s", spec->program);
    for (size_t i = 0; i < spec->option_count; i++) {
        char name[NAME_BYTES];
        if (!spec->options[i].required)
            continue;
        name_of(&spec->options[i], name);
        printf(" %s %s", name, value_name_of(&spec->options[i]));
    }
    printf(" [options]");
    if (spec->positional_name)
        printf(spec->positional_min > 0 ? " %s" : " [%s]", spec->positional_name);
    printf("\n%s\n\nOptions:\n", spec->summary);
    for (size_t i = 0; i < spec->option_count; i++)
        if (spec->options[i].help)
            print_option(&spec->options[i]);
    print_wrapped("print this help", printf("  -h, --help "));
    print_wrapped("print the version", printf("  --version "));
    if (spec->epilog)
        printf("\n%s\n", spec->epilog);
}

/* ---- parsing ---- */

/* getopt_long said '?'. It leaves optopt 0 for an unknown or ambiguous long name, the option's own
 * code where a flag got a value, and the letter for an unknown short one. */
static enum status refuse(const struct args_spec *spec, const struct option_tables *tables,
                          char **argv, struct error *err)
{
    char name[NAME_BYTES];
    const struct args_option *option = optopt >= CODE_OPTION ? option_of(spec, optopt) : NULL;
    if (option) {
        name_of(option, name);
        return error_set(err, STATUS_INVALID, "%s: takes no value", name);
    }
    if (optopt == CODE_HELP || optopt == CODE_VERSION)
        return error_set(err, STATUS_INVALID, "%s: takes no value",
                         optopt == CODE_HELP ? "--help" : "--version");
    if (optopt != 0)
        return error_set(err, STATUS_INVALID, "-%c: unknown option (see --help)",
                         isprint(optopt) ? optopt : '?');
    const char *word = argv[optind - 1];
    size_t length = strncmp(word, "--", 2) == 0 ? strcspn(word + 2, "=") : 0;
    int matches = 0;
    for (const struct option *known = tables->longs; known->name; known++)
        matches += length > 0 && strncmp(known->name, word + 2, length) == 0;
    return error_set(err, STATUS_INVALID, "%.*s: %s option (see --help)", (int)MIN(length + 2, 64u),
                     word, matches > 1 ? "ambiguous" : "unknown");
}

static enum status check_complete(const struct args_spec *spec, const bool *seen, int argc,
                                  char **argv, struct error *err)
{
    char name[NAME_BYTES];
    for (size_t i = 0; i < spec->option_count; i++) {
        if (!spec->options[i].required || seen[i])
            continue;
        name_of(&spec->options[i], name);
        return error_set(err, STATUS_INVALID, "%s: missing, and it is required (see --help)", name);
    }
    size_t count = (size_t)(argc - optind);
    if (count > spec->positional_max)
        return error_set(err, STATUS_INVALID, "'%.100s': unexpected argument (see --help)",
                         argv[(size_t)optind + spec->positional_max]);
    if (count < spec->positional_min)
        return error_set(err, STATUS_INVALID, "%s: missing argument (see --help)",
                         spec->positional_name);
    return STATUS_OK;
}

enum args_result args_parse(const struct args_spec *spec, int argc, char **argv,
                            struct args_positionals *positionals, struct error *err)
{
    assert(spec->option_count <= ARGS_OPTIONS_MAX);
    struct option_tables tables;
    bool seen[ARGS_OPTIONS_MAX] = {false};
    enum status status = STATUS_OK;
    fill_tables(spec, &tables);
    optind = 0;
    opterr = 0;
    int code;
    while (status == STATUS_OK) {
        optopt = 0;
        code = getopt_long(argc, argv, tables.shorts, tables.longs, NULL);
        if (code == -1)
            break;
        if (code == CODE_HELP || code == 'h') {
            print_help(spec);
            return ARGS_DONE;
        }
        if (code == CODE_VERSION) {
            printf("%s %s\n", spec->program, NIGHTJAR_VERSION);
            return ARGS_DONE;
        }
        const struct args_option *option = option_of(spec, code == ':' ? optopt : code);
        if (code == '?' || !option) {
            status = refuse(spec, &tables, argv, err);
        } else if (code == ':') {
            char name[NAME_BYTES];
            name_of(option, name);
            status = error_set(err, STATUS_INVALID, "%s: wants a value", name);
        } else {
            seen[option - spec->options] = true;
            status = store(option, optarg, err);
        }
    }
    if (status == STATUS_OK)
        status = check_complete(spec, seen, argc, argv, err);
    if (status != STATUS_OK)
        return ARGS_USAGE;
    if (positionals)
        *positionals =
            (struct args_positionals){.items = argv + optind, .count = (size_t)(argc - optind)};
    return ARGS_RUN;
}
