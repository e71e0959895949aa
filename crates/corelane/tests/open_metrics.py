"""What the reference parser makes of an OpenMetrics scrape on stdin: JSON, by family."""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

families = {}
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.name not in families, f"{family.name} twice"
    families[family.name] = {
        "type": family.type,
        "unit": family.unit,
        "help": family.documentation,
        "names": sorted({sample.name for sample in family.samples}),
        "sum": sum(sample.value for sample in family.samples),
    }
json.dump(families, sys.stdout)
