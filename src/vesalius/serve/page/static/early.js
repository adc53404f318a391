"use strict";
// The chosen theme, before the page is first drawn: no flash of the other one. The only script that is no module.
{
  const theme = localStorage.getItem("vesalius-theme");
  if (theme) document.documentElement.dataset.theme = theme;
}
