"""The attention explorer for JupyterLab: ipywidgets around plotly figures, moved by mouse or keyboard."""

import io
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
from PIL import Image
from torch import Tensor

from fervit_lib.explain import METHODS, ExaminedRun, replace_layers, token_map
from fervit_lib.figures.codes import LAYERS, shade_bands
from fervit_lib.figures.theme import PALETTE, SEQUENTIAL, new_figure
from fervit_lib.latents import BANDS

TOKENS = ["CLS", *LAYERS]


def _quiet(**more: Any) -> widgets.Layout:
    return widgets.Layout(width="auto", **more)


class Panel:
    """One run: what it reads, and where it looks, in a figure each that is changed in place."""

    def __init__(
        self, subjects: Sequence[ExaminedRun], chosen: int, on_change: Callable[[], None]
    ) -> None:
        self.subjects = {subject.name: subject for subject in subjects}
        options = list(self.subjects)
        self.run = widgets.Dropdown(options=options, value=options[chosen], description="run")
        self.block = widgets.IntSlider(1, 1, 1, description="block", continuous_update=True)
        self.head = widgets.IntSlider(0, 0, 1, description="head", continuous_update=True)
        self.head.style.handle_color = self.block.style.handle_color = PALETTE[0]
        self.read = go.FigureWidget(
            new_figure("Read as", height=230, margin={"t": 44, "l": 8, "r": 8})
        )
        self.read.add_bar(orientation="h", marker_color=PALETTE[0], textposition="auto")
        self.read.update_xaxes(range=[0, 1], tickformat=".0%")
        self.read.update_yaxes(autorange="reversed")
        self.bars = go.FigureWidget(new_figure("CLS", height=250, margin={"t": 56, "l": 8, "r": 8}))
        self.bars.add_bar(
            x=list(range(19)), marker_color="#777777", hovertemplate="%{x}: %{y:.3f}<extra></extra>"
        )
        shade_bands(self.bars, 1)
        self.bars.update_xaxes(tickvals=list(range(19)), ticktext=TOKENS, showgrid=False)
        self.map = go.FigureWidget(
            new_figure("From token to token", height=430, margin={"t": 44, "l": 8, "r": 8})
        )
        self.map.add_heatmap(x=TOKENS, colorscale=SEQUENTIAL, colorbar={"thickness": 10})
        self.map.update_yaxes(autorange="reversed", type="category", title="from")
        self.map.update_xaxes(type="category", title="to token")
        self._fit_sliders()

        def on_run(_: object) -> None:
            self._fit_sliders()
            on_change()

        self.run.observe(on_run, "value")
        for control in (self.block, self.head):
            control.observe(lambda _: on_change(), "value")
        controls = [self.run, self.block, self.head, self.read, self.bars, self.map]
        self.box = widgets.VBox(
            controls, layout=widgets.Layout(flex="1 1 380px", min_width="340px")
        )

    @property
    def subject(self) -> ExaminedRun:
        return self.subjects[self.run.value]

    def _fit_sliders(self) -> None:
        """As many blocks and heads as the chosen run has."""
        blocks = len(self.subject.model.blocks)
        heads = next(m.num_heads for m in self.subject.model.modules() if hasattr(m, "num_heads"))
        self.block.max, self.head.max = blocks, heads  # head 0 is the mean

    def show(self, code: Tensor, method: str) -> None:
        """Ask the model about one code (1, 18, 512) and draw the answer."""
        self.block.disabled = not METHODS[method]
        self.head.disabled = not METHODS[method] or method == "cosine"
        self.head.description = "head" if self.head.value else "mean head"
        probs = self.subject.predict(code)[0]
        head = self.head.value - 1 if self.head.value else None
        weights = token_map(self.subject.model, code, method, self.block.value - 1, head)
        signed = method == "cosine"
        with self.read.batch_update():
            self.read.data[0].update(
                x=probs, y=self.subject.classes, text=[f"{p:.0%}" for p in probs]
            )
        with self.bars.batch_update():
            self.bars.data[0].y = weights[0]
            self.bars.layout.yaxis.title.text = "cosine" if signed else "weight"
        with self.map.batch_update():
            self.map.data[0].update(z=weights, y=TOKENS[: len(weights)], zmin=-1 if signed else 0)


class Explorer:
    """Choose runs, a face, a method, and layers of the code to take away; every figure follows at once.

    Args:
        subjects: runs over the same faces.
        pictures: one a face, if there are any.
        faces: which faces of the subjects can be chosen.
    """

    def __init__(
        self,
        subjects: Sequence[ExaminedRun],
        faces: Sequence[int],
        pictures: Sequence[Image.Image] | None = None,
    ) -> None:
        if not subjects:
            raise ValueError("subjects: expected at least one run, got none")
        self.first, self.faces = subjects[0], list(faces)
        self.waiting = True  # while several controls change
        self.method = widgets.Dropdown(options=list(METHODS), description="method")
        names = [
            f"{i + 1} {self.first.classes[self.first.labels[face]]}"
            for i, face in enumerate(self.faces)
        ]
        self.face = widgets.Dropdown(
            options=list(zip(names, self.faces, strict=True)), description="face"
        )
        self.layers = [self._toggle(layer) for layer in LAYERS]
        self.bands = {band: self._button(band, range(s.start, s.stop)) for band, s in BANDS.items()}
        self.none = widgets.Button(
            description="all on", layout=_quiet(), tooltip="bring every layer back"
        )
        self.none.on_click(lambda _: self.switch_off([]))
        self.panels = [Panel(subjects, i, self.show) for i in range(min(2, len(subjects)))]
        self.face.observe(lambda _: self.show(), "value")
        self.method.observe(lambda _: self.show(), "value")
        self.thumbnails = [
            self._thumbnail(*pair) for pair in zip(names, pictures or [], strict=False)
        ]
        wrap = widgets.Layout(flex_flow="row wrap")
        self.box = widgets.VBox(
            [
                widgets.HBox(self.thumbnails, layout=wrap),
                widgets.HBox([self.face, self.method], layout=wrap),
                widgets.HBox(
                    [widgets.Label("layers off:"), *self.bands.values(), self.none], layout=wrap
                ),
                widgets.HBox(self.layers, layout=wrap),
                widgets.HBox([panel.box for panel in self.panels], layout=wrap),
            ]
        )
        self.waiting = False
        self.show()

    def _toggle(self, layer: str) -> widgets.ToggleButton:
        button = widgets.ToggleButton(
            description=layer, layout=_quiet(), tooltip=f"put the mean code in layer {layer}"
        )
        button.observe(lambda _: self.show(), "value")
        return button

    def _button(self, band: str, layers: Sequence[int]) -> widgets.Button:
        button = widgets.Button(
            description=band, layout=_quiet(), tooltip=f"layers {layers[0]} to {layers[-1]} off"
        )
        button.on_click(lambda _: self.switch_off([*self.off, *layers]))
        return button

    def _thumbnail(self, name: str, picture: Image.Image) -> widgets.VBox:
        buffer = io.BytesIO()
        picture.resize((72, 72)).save(buffer, "PNG")
        button = widgets.Button(
            description=name, layout=widgets.Layout(width="92px"), tooltip=escape(name)
        )
        position = int(name.split()[0]) - 1
        button.on_click(lambda _: setattr(self.face, "index", position))
        return widgets.VBox([widgets.Image(value=buffer.getvalue(), width=72, height=72), button])

    @property
    def off(self) -> list[int]:
        """The layers that are switched off."""
        return [layer for layer, button in enumerate(self.layers) if button.value]

    def switch_off(self, layers: Sequence[int]) -> None:
        """Exactly `layers` off, drawn once."""
        self.waiting = True
        for layer, button in enumerate(self.layers):
            button.value = layer in layers
        self.waiting = False
        self.show()

    def show(self) -> None:
        """Draw every panel anew."""
        if not self.waiting:
            code = replace_layers(
                self.first.codes[[self.face.value]], self.off, self.first.mean_code
            )
            for panel in self.panels:
                panel.show(code, self.method.value)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict:
        return self.box._repr_mimebundle_(**kwargs)
