"""The attention explorer for JupyterLab: controls around plotly figures, by mouse or keyboard."""

from collections.abc import Callable, Iterable, Sequence

import ipywidgets as widgets
import plotly.graph_objects as go

from fervit_lib.explain import METHODS, ExaminedRun, swap_layers, token_map
from fervit_lib.figures.codes import shade_bands, token_names
from fervit_lib.figures.theme import GREY, PALETTE, PERCENT, new_figure
from fervit_lib.latents import layer_bands


def new_widget(title: str, height: int) -> go.FigureWidget:
    """An empty figure that changes in place."""
    return go.FigureWidget(new_figure(title, height=height, margin={"t": 56, "l": 8, "r": 8}))


def face_menu(run: ExaminedRun, faces: Sequence[int]) -> widgets.Dropdown:
    """A menu of faces by their indices."""
    names = [f"{i} {run.classes[run.labels[face]]}" for i, face in enumerate(faces, 1)]
    return widgets.Dropdown(options=list(zip(names, faces, strict=True)), description="face")


class Panel:
    """Prediction, attention from CLS and attention map of one run; the figures change in place."""

    def __init__(
        self, runs: Sequence[ExaminedRun], selected: int, on_change: Callable[[], None]
    ) -> None:
        self.runs = {run.name: run for run in runs}
        names = list(self.runs)
        self.run = widgets.Dropdown(options=names, value=names[selected], description="run")
        self.block = widgets.IntSlider(1, 1, 1, description="block")
        self.head = widgets.IntSlider(0, 0, 1, description="head")
        self.probs = new_widget("Predicted probability", 230)
        self.probs.add_bar(
            orientation="h",
            marker_color=PALETTE[0],
            texttemplate="%{value:.0%}",
        )
        self.probs.update_xaxes(range=[0, 1], tickformat=PERCENT)
        self.probs.update_yaxes(autorange="reversed")
        self.bars = new_widget("From CLS", 250)
        num_layers = max(len(run.mean_code) for run in runs)
        self.tokens = token_names(num_layers)
        positions = list(range(len(self.tokens)))
        self.bars.add_bar(
            x=positions, marker_color=GREY, hovertemplate="%{x}: %{y:.3f}<extra></extra>"
        )
        shade_bands(self.bars, num_layers, 1)
        self.bars.update_xaxes(tickvals=positions, ticktext=self.tokens, showgrid=False)
        self.map = new_widget("From token to token", 430)
        self.map.add_heatmap()
        self.map.update_yaxes(autorange="reversed", type="category", title="from token")
        self.map.update_xaxes(type="category", title="to token")
        for control in (self.run, self.block, self.head):
            control.observe(lambda _: on_change(), "value")
        self.box = widgets.VBox(
            [self.run, self.block, self.head, self.probs, self.bars, self.map],
            layout=widgets.Layout(flex="1 1 380px", min_width="340px"),
        )

    @property
    def selected(self) -> ExaminedRun:
        return self.runs[self.run.value]

    def show(self, face: int, removed: Sequence[int], method: str) -> None:
        """Update the sliders' range and the figures for a face without the layers `removed`."""
        run = self.selected
        layers = [layer for layer in removed if layer < len(run.mean_code)]
        code = swap_layers(run.codes[[face]], run.mean_code, layers)
        self.block.max = len(run.model.blocks)
        # Head 0 is the mean of all heads.
        self.head.max = next(m.num_heads for m in run.model.modules() if hasattr(m, "num_heads"))
        self.block.disabled = not METHODS[method]
        self.head.disabled = not METHODS[method] or method == "cosine"
        self.head.description = "head" if self.head.value else "mean head"
        head = self.head.value - 1 if self.head.value else None
        weights = token_map(run.model, code, method, self.block.value - 1, head)
        with self.probs.batch_update():
            self.probs.data[0].update(x=run.predict(code)[0], y=run.classes)
        with self.bars.batch_update():
            self.bars.data[0].y = weights[0]
            self.bars.layout.yaxis.title.text = "cosine" if method == "cosine" else "weight"
        with self.map.batch_update():
            zmin = -1 if method == "cosine" else 0
            names = {"x": self.tokens[: weights.shape[1]], "y": self.tokens[: len(weights)]}
            self.map.data[0].update(z=weights, zmin=zmin, **names)


class Explorer:
    """Select runs, a face, a method, and layers of the code to remove; the figures follow.

    Args:
        runs: at least one, all over the same faces.
        faces: indices of the faces to select from.
    """

    def __init__(self, runs: Sequence[ExaminedRun], faces: Sequence[int]) -> None:
        self.updating = True  # while several controls change, so that the figures change once
        self.method = widgets.Dropdown(options=list(METHODS), description="method")
        self.face = face_menu(runs[0], faces)
        num_layers = max(len(run.mean_code) for run in runs)
        self.layers = [self._layer_toggle(layer) for layer in range(num_layers)]
        self.bands = {
            band: self._button(band, layers) for band, layers in layer_bands(num_layers).items()
        }
        self.restore = _narrow(widgets.Button, "restore all", "put every layer back")
        self.restore.on_click(lambda _: self.remove_layers([]))
        self.panels = [Panel(runs, i, self.show) for i in range(min(2, len(runs)))]
        self.face.observe(lambda _: self.show(), "value")
        self.method.observe(lambda _: self.show(), "value")
        label = widgets.Label("layers removed:")
        rows = [
            [self.face, self.method],
            [label, *self.bands.values(), self.restore],
            self.layers,
            [panel.box for panel in self.panels],
        ]
        wrap = widgets.Layout(flex_flow="row wrap")
        self.box = widgets.VBox([widgets.HBox(row, layout=wrap) for row in rows])
        self.updating = False
        self.show()

    def _layer_toggle(self, layer: int) -> widgets.ToggleButton:
        toggle = _narrow(
            widgets.ToggleButton, str(layer), f"replace layer {layer} by the mean code"
        )
        toggle.observe(lambda _: self.show(), "value")
        return toggle

    def _button(self, band: str, layers: Sequence[int]) -> widgets.Button:
        button = _narrow(widgets.Button, band, f"remove layers {layers[0]} to {layers[-1]}")
        button.on_click(lambda _: self.remove_layers([*self.removed, *layers]))
        return button

    @property
    def removed(self) -> list[int]:
        """The layers that are replaced by the mean code."""
        return [layer for layer, toggle in enumerate(self.layers) if toggle.value]

    def remove_layers(self, layers: Iterable[int]) -> None:
        """Remove exactly `layers`, and update the figures once."""
        self.updating = True
        for layer, toggle in enumerate(self.layers):
            toggle.value = layer in layers
        self.updating = False
        self.show()

    def show(self) -> None:
        """Update every panel."""
        if self.updating:
            return
        for panel in self.panels:
            panel.show(self.face.value, self.removed, self.method.value)

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        return self.box._repr_mimebundle_(**kwargs)


def _narrow(kind: type, description: str, tooltip: str) -> widgets.Widget:
    return kind(description=description, tooltip=tooltip, layout=widgets.Layout(width="auto"))
