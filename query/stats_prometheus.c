#include "query/stats.h"
enum status stats_prometheus_format(const struct stats *stats, char **text, struct error *err)
{
    (void)stats, (void)text;
    return error_set(err, STATUS_UNSUPPORTED, "no");
}
