// plotly's sliders and menus work only with the mouse. This adds them to the Tab order, gives them a name for screen
// readers, and handles the arrow keys, Home and End.
figuresDrawn.then(() => {
for (const plot of document.querySelectorAll('.js-plotly-plot')) {
  const controls = () => [
    ...[...plot.querySelectorAll('.slider-group')].map((element, i) => ({ element, kind: 'sliders', i })),
    ...[...plot.querySelectorAll('.updatemenu-header')].map((element, i) => ({ element, kind: 'updatemenus', i })),
  ];
  const choicesOf = ({ kind, i }) => plot.layout[kind][i][kind === 'sliders' ? 'steps' : 'buttons'];
  const chosen = ({ kind, i }) => plot.layout[kind][i].active ?? 0;
  let focused = null; // a redraw may replace the element that had the focus

  async function choose(control, to) {
    const { kind, i } = control, choices = choicesOf(control), next = Math.min(Math.max(to, 0), choices.length - 1);
    if (next === chosen(control)) return;
    focused = `${kind}${i}`;
    await Plotly[choices[next].method](plot, ...choices[next].args);
    await Plotly.relayout(plot, { [`${kind}[${i}].active`]: next });
  }

  function addKeys() {
    for (const control of controls()) {
      const { element, kind, i } = control, choices = choicesOf(control), layout = plot.layout[kind][i];
      const name = layout.currentvalue?.prefix?.trim() || 'shown', now = chosen(control);
      const attributes = { tabindex: 0, role: 'slider', 'aria-label': name, 'aria-valuemin': 1, 'aria-valuenow': now + 1 };
      attributes['aria-valuemax'] = choices.length;
      attributes['aria-valuetext'] = choices[now].label;
      for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
      element.onkeydown = event => {
        const now = chosen(control), last = choices.length - 1;
        const to = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1, Home: 0, End: last }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        choose(control, to);
      };
      if (focused === `${kind}${i}` && document.activeElement !== element) element.focus();
      element.onblur = () => { focused = null; };
    }
  }

  addKeys();
  plot.on('plotly_afterplot', addKeys);
}
});
