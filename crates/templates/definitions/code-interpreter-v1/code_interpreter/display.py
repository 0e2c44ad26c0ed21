"""An IPython extension: figures and tables carry their data beside their picture, under the names that the clients read."""

import json
import sys

from IPython.core.formatters import BaseFormatter
from traitlets import ObjectName, Unicode

MAX_CELLS = 100_000


class Chart(BaseFormatter):
    """What a figure of Matplotlib shows. Not registered by type: Matplotlib's own set-up removes such registrations."""

    format_type = Unicode("application/vnd.e2b.chart.v1+json")
    print_method = ObjectName("_repr_e2b_chart_")

    def __call__(self, value):
        if not is_a(value, "matplotlib.figure", "Figure"):
            return None
        from e2b_charts import chart_figure_to_dict

        try:
            return chart_figure_to_dict(value)
        except Exception:
            # A figure whose data cannot be told is still a picture.
            return None


class Data(BaseFormatter):
    """The columns of a pandas table that is not too large to be sent."""

    format_type = Unicode("application/vnd.e2b.data.v1+json")
    print_method = ObjectName("_repr_e2b_data_")

    def __call__(self, value):
        if not is_a(value, "pandas", "DataFrame") or value.size > MAX_CELLS:
            return None
        return {str(name): json.loads(column.to_json(orient="values", date_format="iso")) for name, column in value.items()}


def is_a(value, module, name):
    """Whether a value is of a type of a library, which is not imported for the question."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def load_ipython_extension(shell):
    formatter = shell.display_formatter
    types = list(formatter.active_types)
    for kind in (Chart, Data):
        added = kind(parent=formatter)
        formatter.formatters[added.format_type] = added
        if added.format_type not in types:
            types.append(added.format_type)
    formatter.active_types = types
