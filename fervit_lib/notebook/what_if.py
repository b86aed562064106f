"""Move a face along directions of emotions: what it looks like, and what a model reads."""

import asyncio
import base64
import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import torch
from PIL import Image
from torch import Tensor

from fervit_lib.encoders import decode_images
from fervit_lib.encoders.generator import Generator
from fervit_lib.explain import ExaminedRun, face_distance, smallest_flips
from fervit_lib.figures.theme import GREY, PALETTE, PERCENT
from fervit_lib.latents import layer_bands
from fervit_lib.notebook.explorer import face_menu, new_widget
from fervit_lib.system.names import escape

PREVIEW_SECONDS = 0.15  # for a picture while a slider moves
REST_SECONDS = 0.4  # without a move until the larger picture is drawn
SIZES = (32, 64, 128, 256)  # of pictures of a StyleGAN


class WhatIf:
    """Sliders of emotions and of bands, two pictures and the model's reading of both.

    Args:
        run: of a model over codes.
        decoder: draws them, see `encoders.load_decoder`.
        directions: (layers, dim) of some classes by their indices, see
            `explain.expression_directions`.
        faces: indices of the faces to select from.
    """

    def __init__(
        self,
        run: ExaminedRun,
        decoder: Any,
        directions: Mapping[int, Tensor],
        faces: Sequence[int],
    ) -> None:
        self.run, self.decoder, self.directions = run, decoder, directions
        self.flip: Tensor | None = None  # the code of the smallest change, while it is shown
        self.length = ""  # of that change
        self.milliseconds: dict[int, float] = {}  # of the latest picture of each size
        self.timer: asyncio.TimerHandle | None = None
        self.updating = False  # while several controls change, so that one picture is drawn
        self.face = face_menu(run, faces)
        self.emotions = {i: self._slider(run.classes[i], 0.0, -3.0, 3.0) for i in directions}
        self.layers = layer_bands(len(run.mean_code))
        self.bands = {band: self._slider(band, 1.0, 0.0, 1.0) for band in self.layers}
        self.reset = widgets.Button(description="reset", tooltip="all emotions to 0")
        self.smallest = widgets.Button(
            description="smallest change", tooltip="of the bands above 0, to another prediction"
        )
        self.picture, self.text = widgets.HTML(), widgets.HTML()
        self.probs = new_widget("Predicted probability", 100 + 40 * len(run.classes))
        for name, color in (("face", GREY), ("changed", PALETTE[0])):
            self.probs.add_bar(orientation="h", y=run.classes, name=name, marker_color=color)
        self.probs.update_layout(width=380)  # as wide as its box, which plotly does not know
        self.probs.update_xaxes(range=[0, 1], tickformat=PERCENT)
        self.probs.update_yaxes(autorange="reversed")
        self.face.observe(lambda _: self.show_face(), "value")
        self.reset.on_click(lambda _: self.show_face())
        self.smallest.on_click(lambda _: self.show_smallest_change())
        wide = widgets.Layout(flex="1 1 320px", min_width="300px")
        heading = widgets.HTML("<b>steps towards an emotion</b>, in the bands below")
        controls = [self.face, heading, *self.emotions.values(), *self.bands.values()]
        buttons = widgets.HBox([self.reset, self.smallest])
        boxes = [
            widgets.VBox([*controls, buttons], layout=wide),
            widgets.VBox([self.picture, self.text], layout=wide),
            widgets.VBox([self.probs], layout=wide),
        ]
        self.box = widgets.HBox(boxes, layout=widgets.Layout(flex_flow="row wrap"))
        self.preview = self.choose_preview()
        self.draw(self.sizes[-1])

    def _slider(self, name: str, value: float, low: float, high: float) -> widgets.FloatSlider:
        slider = widgets.FloatSlider(value, min=low, max=high, step=0.1, description=name)
        slider.observe(lambda _: self.move(), "value")
        return slider

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes that pictures can be drawn at; an autoencoder has only its own."""
        return SIZES if isinstance(self.decoder, Generator) else (self.decoder.img_size,)

    def choose_preview(self) -> int:
        """The largest size of a picture that is drawn in `PREVIEW_SECONDS`."""
        best = self.sizes[0]
        for size in self.sizes:
            decode_images(self.decoder, self.run.codes[:1], size)  # the first call takes longer
            start = time.perf_counter()
            decode_images(self.decoder, self.run.codes[:1], size)
            if time.perf_counter() - start > PREVIEW_SECONDS:
                break
            best = size
        return best

    @property
    def code(self) -> Tensor:
        """The changed code (1, layers, dim)."""
        if self.flip is not None:
            return self.flip
        change = torch.zeros_like(self.run.codes[0])
        for label, slider in self.emotions.items():
            change += slider.value * self.directions[label]
        for band, layers in self.layers.items():
            change[list(layers)] *= self.bands[band].value
        return self.run.codes[[self.face.value]] + change

    def reset_emotions(self) -> None:
        """Set every emotion's slider to 0, and draw nothing."""
        self.updating = True
        for slider in self.emotions.values():
            slider.value = 0.0
        self.updating = False

    def show_face(self) -> None:
        """Show the face as it is."""
        self.reset_emotions()
        self.move()

    def move(self) -> None:
        """Draw a preview now, and the larger picture when nothing moves any more."""
        if self.updating:
            return
        self.flip = None
        self.draw(self.preview)
        if self.preview != self.sizes[-1]:
            loop = asyncio.get_running_loop()
            self.timer = loop.call_later(REST_SECONDS, self.draw, self.sizes[-1])

    def show_smallest_change(self) -> None:
        """Show the smallest change of the bands above 0 that changes the prediction."""
        layers = [i for band in self.layers if self.bands[band].value for i in self.layers[band]]
        code = self.run.codes[[self.face.value]]
        flip, changed = smallest_flips(self.run.model, code, layers)
        if not changed:
            self.show_face()
            self.text.value = "No change of these bands was found that changes the prediction."
            return
        self.reset_emotions()
        self.flip = flip
        share = (flip - code).norm().item() / face_distance(self.run.codes)
        self.length = f"; this change has {share:.1%} of the median distance of two faces"
        self.draw(self.sizes[-1])

    def draw(self, size: int) -> None:
        """Draw both pictures at a size, and show what the model reads."""
        if self.timer:
            self.timer.cancel()
        codes = torch.cat([self.run.codes[[self.face.value]], self.code])
        start = time.perf_counter()
        changed = decode_images(self.decoder, codes[1:], size)
        self.milliseconds[size] = 1000 * (time.perf_counter() - start)
        pictures = decode_images(self.decoder, codes[:1], size) + changed
        self.picture.value = "".join(map(_as_html, pictures, ("the face", "the changed face")))
        probs = self.run.predict(codes)
        before, after = (escape(self.run.classes[label]) for label in probs.argmax(1))
        times = [f"{side} px in {ms:.0f} ms" for side, ms in self.milliseconds.items()]
        length = self.length if self.flip is not None else ""
        self.text.value = f"{before} → {after}{length}<br>{', '.join(times)}"
        with self.probs.batch_update():
            for trace, of_face in zip(self.probs.data, probs, strict=True):
                trace.x = of_face

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        return self.box._repr_mimebundle_(**kwargs)


def _as_html(image: Image.Image, alt: str) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{alt}" width="180" style="margin: 4px">'
